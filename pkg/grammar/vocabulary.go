package grammar

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// ErrVocabulary says that a vocabulary cannot spell every JSON text.
var ErrVocabulary = errors.New("vocabulary cannot spell JSON")

// Vocabulary is a trie over the bytes of token ids, flattened in preorder: a
// walk skips the subtree of a byte that cannot come. It is not changed after it
// was made.
type Vocabulary struct {
	bytes [][]byte // by id; nil is no text
	byte  []byte   // of each node
	depth []uint16 // of each node, from 0
	skip  []int32  // the node after each node's subtree
	first []int32  // into ids: the ids that end at each node; one more at the end
	ids   []int32
	deep  int // of the deepest node, plus 1
}

// maxToken bounds the bytes of a token; longer ones are never chosen.
const maxToken = 512

// NewVocabulary makes the trie of n ids. bytes returns the text of an id, nil
// for one that stands for no text, such as a control token. The error wraps
// ErrVocabulary.
func NewVocabulary(n int, bytes func(id int32) []byte) (*Vocabulary, error) {
	v := &Vocabulary{bytes: make([][]byte, n)}
	var single [256]bool
	for id := range v.bytes {
		b := bytes(int32(id))
		v.bytes[id] = b
		if len(b) == 1 {
			single[b[0]] = true
		}
	}
	for c := ' '; c <= '~'; c++ {
		if !single[c] {
			return nil, fmt.Errorf("%w: no token for %q alone", ErrVocabulary, c)
		}
	}
	// A token that ends within a character needs others that can go on.
	whole := slices.Contains(single[0x80:0xc0], false)
	var order []int32
	for id, b := range v.bytes {
		if len(b) > 0 && len(b) <= maxToken && (!whole || utf8.Valid(b)) {
			order = append(order, int32(id))
		}
	}
	slices.SortFunc(order, func(a, b int32) int { return slices.Compare(v.bytes[a], v.bytes[b]) })
	v.flatten(order)
	return v, nil
}

// flatten lays out the trie of ids in the order of their bytes.
func (v *Vocabulary) flatten(order []int32) {
	var open []int32 // nodes of the present token
	for _, id := range order {
		b := v.bytes[id]
		common := 0
		for common < len(open) && common < len(b) && v.byte[open[common]] == b[common] {
			common++
		}
		v.close(open[common:])
		open = open[:common]
		for d := common; d < len(b); d++ {
			open = append(open, int32(len(v.byte)))
			v.byte = append(v.byte, b[d])
			v.depth = append(v.depth, uint16(d))
			v.skip = append(v.skip, 0)
			v.first = append(v.first, int32(len(v.ids)))
			v.deep = max(v.deep, d+1)
		}
		v.ids = append(v.ids, id)
	}
	v.close(open)
	v.first = append(v.first, int32(len(v.ids)))
}

// close ends the subtrees of nodes.
func (v *Vocabulary) close(nodes []int32) {
	for _, n := range nodes {
		v.skip[n] = int32(len(v.byte))
	}
}

// Len returns the number of ids.
func (v *Vocabulary) Len() int { return len(v.bytes) }

// Bytes returns the text of an id. The caller must not change it.
func (v *Vocabulary) Bytes(id int32) []byte { return v.bytes[id] }
