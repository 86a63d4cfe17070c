// Package grammar constrains answers to JSON of a given shape.
//
// Compile turns a JSON Schema into a program for a pushdown automaton over
// bytes; its bytes travel with the session. On the stage that samples, an
// Automaton runs the program against the vocabulary: a Matcher says which token
// ids may come next, so that every finished answer is valid, and keeps a way to
// an ending within the answer's budget of tokens.
//
// The program may accept less than the schema does (properties come in the
// order of the schema, white space is bounded, numbers have at most 15 digits),
// never more.
package grammar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// MaxBytes bounds a compiled grammar that is read. Compile makes less.
const MaxBytes = 1 << 20

// ErrInvalid says that bytes are no compiled grammar of this version.
var ErrInvalid = errors.New("invalid grammar")

// Grammar is a compiled grammar. It is not changed after it was made.
type Grammar struct {
	sets  []set
	rules []int32 // entry of each rule; rule 0 is the start
	code  []inst
	least []int32 // bytes from each instruction to its rule's end, at least
	notes []string
}

// set is a set of bytes.
type set [4]uint64

func (s *set) add(lo, hi byte) {
	for c := int(lo); c <= int(hi); c++ {
		s[c>>6] |= 1 << (c & 63)
	}
}

func (s *set) has(c byte) bool { return s[c>>6]>>(c&63)&1 != 0 }

// opcode says what an instruction does.
type opcode uint8

const (
	opReturn opcode = iota // the rule ends
	opSet                  // a byte of set a, then b
	opCall                 // rule a, then b
	opSplit                // a or b
	opRepeat               // rule a, min to max times, then b
)

// inst is one instruction.
type inst struct {
	op       opcode
	a, b     int32
	min, max int32 // of opRepeat; max < 0 is no limit
}

const (
	endless   = math.MaxInt32 / 4 // of least: no end can be reached
	maxPasses = 64                // of the search for it
	version   = 1
)

var magic = []byte("shoal grammar")

// Notes says what of the schema has no effect, for the client.
func (g *Grammar) Notes() []string { return g.notes }

// Bytes serialises the grammar, without its notes.
func (g *Grammar) Bytes() []byte {
	b := append(bytes.Clone(magic), version)
	b = binary.AppendUvarint(b, uint64(len(g.sets)))
	b = binary.AppendUvarint(b, uint64(len(g.rules)))
	b = binary.AppendUvarint(b, uint64(len(g.code)))
	for _, s := range g.sets {
		for _, w := range s {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
	}
	for _, r := range g.rules {
		b = binary.AppendUvarint(b, uint64(r))
	}
	for _, in := range g.code {
		b = append(b, byte(in.op))
		switch in.op {
		case opRepeat:
			b = binary.AppendUvarint(b, uint64(in.min))
			b = binary.AppendUvarint(b, uint64(in.max+1))
			fallthrough
		case opSet, opCall, opSplit:
			b = binary.AppendUvarint(b, uint64(in.a))
			b = binary.AppendUvarint(b, uint64(in.b))
		}
	}
	return b
}

// Parse reads what Bytes wrote. It checks every number, since the bytes came
// over a network. Errors wrap ErrInvalid.
func Parse(b []byte) (*Grammar, error) {
	if len(b) > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrInvalid, len(b), MaxBytes)
	}
	rest, ok := bytes.CutPrefix(b, magic)
	if !ok || len(rest) == 0 || rest[0] != version {
		return nil, fmt.Errorf("%w: not of version %d", ErrInvalid, version)
	}
	r := reader{b: rest[1:]}
	nSets, nRules, nCode := r.count(32), r.count(1), r.count(1)
	g := &Grammar{sets: make([]set, nSets), rules: make([]int32, nRules), code: make([]inst, nCode)}
	for i := range g.sets {
		for j := range g.sets[i] {
			g.sets[i][j] = r.word()
		}
	}
	for i := range g.rules {
		g.rules[i] = r.below(nCode)
	}
	for i := range g.code {
		g.code[i] = r.inst(nSets, nRules, nCode)
	}
	if r.bad || len(r.b) != 0 || nRules == 0 {
		return nil, fmt.Errorf("%w: damaged", ErrInvalid)
	}
	if err := g.measure(); err != nil {
		return nil, err
	}
	return g, nil
}

// reader takes numbers from bytes and remembers whether one was bad.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads the number of things of at least size bytes that follow.
func (r *reader) count(size int) int {
	v := r.uvarint()
	if v > uint64(len(r.b)/size) {
		r.bad = true
		return 0
	}
	return int(v)
}

func (r *reader) below(n int) int32 {
	v := r.uvarint()
	if v >= uint64(n) {
		r.bad = true
		return 0
	}
	return int32(v)
}

func (r *reader) word() uint64 {
	if len(r.b) < 8 {
		r.bad, r.b = true, nil
		return 0
	}
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) inst(nSets, nRules, nCode int) (in inst) {
	if len(r.b) == 0 {
		r.bad = true
		return in
	}
	in.op, r.b = opcode(r.b[0]), r.b[1:]
	switch in.op {
	case opReturn:
	case opSet:
		in.a, in.b = r.below(nSets), r.below(nCode)
	case opCall:
		in.a, in.b = r.below(nRules), r.below(nCode)
	case opSplit:
		in.a, in.b = r.below(nCode), r.below(nCode)
	case opRepeat:
		in.min = r.below(endless)
		in.max = r.below(endless) - 1
		in.a, in.b = r.below(nRules), r.below(nCode)
		r.bad = r.bad || in.max >= 0 && in.min > in.max
	default:
		r.bad = true
	}
	return in
}

// measure finds the shortest ending of every instruction. It is an error when
// the start has none.
func (g *Grammar) measure() error {
	g.least = make([]int32, len(g.code))
	for i := range g.least {
		g.least[i] = endless
	}
	for range maxPasses {
		changed := false
		for pc := range g.code {
			if n := g.leastOf(int32(pc), 0); n < g.least[pc] {
				g.least[pc], changed = n, true
			}
		}
		if !changed {
			break
		}
	}
	if g.least[g.rules[0]] >= endless {
		return fmt.Errorf("%w: nothing can be complete", ErrInvalid)
	}
	return nil
}

// leastOf is the shortest ending of an instruction, of which a repetition has
// been done count times.
func (g *Grammar) leastOf(pc, count int32) int32 {
	in := &g.code[pc]
	var n int64
	switch in.op {
	case opReturn:
		return 0
	case opSet:
		n = 1 + int64(g.least[in.b])
	case opCall:
		n = int64(g.least[g.rules[in.a]]) + int64(g.least[in.b])
	case opSplit:
		n = int64(min(g.least[in.a], g.least[in.b]))
	case opRepeat:
		n = int64(g.least[in.b])
		if todo := int64(max(in.min-count, 0)); todo > 0 {
			n += todo * int64(g.least[g.rules[in.a]])
		}
	}
	return int32(min(n, endless))
}
