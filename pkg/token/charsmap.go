package token

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// charsmap is SentencePiece's compiled rules that rewrite text, those of Unicode's
// form NFKC for example: a double-array trie (Aoe, "An efficient digital search
// algorithm by using a double-array structure", 1989; the units are those of
// darts-clone) of what is replaced, and what it becomes.
type charsmap struct {
	units []uint32
	texts []byte // each ends with a zero
}

// newCharsmap reads the rules: the bytes of the trie as a 32-bit number, the trie,
// and the texts.
func newCharsmap(data []byte) (*charsmap, error) {
	if len(data) < 4 {
		return nil, fmt.Errorf("%w: rules of %d bytes", ErrTokenizer, len(data))
	}
	n := uint64(binary.LittleEndian.Uint32(data))
	if n == 0 || n%4 != 0 || n > uint64(len(data)-4) {
		return nil, fmt.Errorf("%w: a trie of %d bytes in rules of %d", ErrTokenizer, n, len(data))
	}
	c := &charsmap{texts: data[4+n:]}
	for i := uint64(0); i < n; i += 4 {
		c.units = append(c.units, binary.LittleEndian.Uint32(data[4+i:]))
	}
	return c, nil
}

// find returns what the longest rule that a text begins with makes of it, and how
// many bytes of the text it takes; 0: none applies.
func (c *charsmap) find(text string) (to []byte, n int) {
	next := func(at, unit uint32) uint32 { return at ^ unit>>10<<(unit&(1<<9)>>6) }
	at := next(0, c.units[0])
	for i := 0; i < len(text) && text[i] != 0; i++ {
		at ^= uint32(text[i])
		if at >= uint32(len(c.units)) {
			break
		}
		unit := c.units[at]
		if unit&(1<<31|0xFF) != uint32(text[i]) {
			break
		}
		at = next(at, unit)
		if unit>>8&1 == 0 {
			continue
		}
		if at >= uint32(len(c.units)) {
			break
		}
		if value := c.units[at] & (1<<31 - 1); value < uint32(len(c.texts)) {
			to, _, _ = bytes.Cut(c.texts[value:], []byte{0})
			n = i + 1
		}
	}
	return to, n
}

// rewrite applies the rules from the left, the longest first. Bytes that are no part
// of a rune become U+FFFD.
func (c *charsmap) rewrite(text string) string {
	var out strings.Builder
	for text != "" {
		to, n := c.find(text)
		if n == 0 {
			var r rune
			r, n = utf8.DecodeRuneInString(text)
			out.WriteRune(r)
		} else {
			out.Write(to)
		}
		text = text[n:]
	}
	return out.String()
}
