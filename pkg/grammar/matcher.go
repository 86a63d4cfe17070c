package grammar

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// ErrMismatch says that an id was accepted that the grammar does not allow.
var ErrMismatch = errors.New("token does not follow the grammar")

// ErrCostly says that a grammar has more alternatives than a mask is worth: its
// session cannot go on without holding up the others.
var ErrCostly = errors.New("grammar has too many alternatives")

// Unbounded is a budget without end.
const Unbounded = math.MaxInt32

// Matcher follows one answer. Each position costs a pointer, so that ids can be
// taken back. It belongs to the goroutine of its automaton.
type Matcher struct {
	a     *Automaton
	stop  []int32
	at    []*state // before each id, and after the last
	ended int      // ids that ended the answer, at the end of it
}

// NewMatcher returns a matcher at the start of an answer that the ids stop end.
func (a *Automaton) NewMatcher(stop []int32) *Matcher {
	return &Matcher{a: a, stop: stop, at: []*state{a.start}}
}

// Len returns the number of accepted ids.
func (m *Matcher) Len() int { return len(m.at) - 1 + m.ended }

// Accept appends an id. An error wraps ErrMismatch and changes nothing.
func (m *Matcher) Accept(id int32) error {
	s := m.at[len(m.at)-1]
	if slices.Contains(m.stop, id) {
		if !s.done {
			return fmt.Errorf("%w: id %d ends an answer that is not complete", ErrMismatch, id)
		}
		m.ended++
		return nil
	}
	if id < 0 || int(id) >= m.a.vocab.Len() || len(m.a.vocab.bytes[id]) == 0 || m.ended > 0 {
		return fmt.Errorf("%w: id %d", ErrMismatch, id)
	}
	for _, c := range m.a.vocab.bytes[id] {
		s = m.a.step(s, c)
	}
	if s == dead {
		return fmt.Errorf("%w: id %d, %q", ErrMismatch, id, m.a.vocab.bytes[id])
	}
	m.at = append(m.at, s)
	return nil
}

// Truncate keeps the first n ids.
func (m *Matcher) Truncate(n int) {
	n = max(n, 0)
	if n >= m.Len() {
		return
	}
	m.ended = max(n-(len(m.at)-1), 0)
	m.at = m.at[:min(n+1, len(m.at))]
}

// Mask sets the logits of ids that may not come next to negative infinity.
// budget is how many ids the answer may still have, that which ends it
// included: ids that leave too little for an ending are not allowed, as far as
// there are others. It is an error when no id is left, and
// ErrCostly when it takes too long to find them.
func (m *Matcher) Mask(logits []float32, budget int) error {
	s := m.at[len(m.at)-1]
	m.a.work = 0
	k := m.a.maskOf(s)
	if left := int64(budget) - 2; int64(k.worst) > left {
		k = m.a.steer(s, int32(max(left, 0)))
	}
	if m.a.work > maxWork {
		return ErrCostly
	}
	// Stop ids may be text, too: they count as the end only.
	ending := make([]float32, 0, 8)
	for _, id := range m.stop {
		ending = append(ending, logits[id])
	}
	k.apply(logits)
	for i, id := range m.stop {
		logits[id] = float32(math.Inf(-1))
		if s.done {
			logits[id] = ending[i]
		}
	}
	if k.count == 0 && (!s.done || len(m.stop) == 0) {
		return fmt.Errorf("grammar: no token of the vocabulary goes on, %d bytes before the end", s.least)
	}
	return nil
}

// mask is the set of ids that are allowed in a state.
type mask struct {
	bits  []uint64
	count int
	worst int32 // the longest way to an end behind one of them
}

func (k *mask) allow(id, least int32) {
	k.bits[id>>6] |= 1 << (id & 63)
	k.count++
	k.worst = max(k.worst, least)
}

// apply sets all other logits to negative infinity.
func (k *mask) apply(logits []float32) {
	never := float32(math.Inf(-1))
	for w, bits := range k.bits {
		if bits == math.MaxUint64 {
			continue
		}
		row := logits[w*64 : min(w*64+64, len(logits))]
		if bits == 0 {
			for i := range row {
				row[i] = never
			}
			continue
		}
		for i := range row {
			if bits>>i&1 == 0 {
				row[i] = never
			}
		}
	}
}

// maskOf returns the ids allowed in a state, and keeps those of the states used
// last.
func (a *Automaton) maskOf(s *state) *mask {
	if s.mask == nil {
		k := a.search(s, endless-1)
		if a.work > maxWork { // it is not whole
			return k
		}
		if len(a.masks) >= maxMasks {
			a.masks[0].mask = nil
			a.masks = a.masks[1:]
		}
		s.mask = k
	} else if i := slices.Index(a.masks, s); i >= 0 {
		a.masks = slices.Delete(a.masks, i, i+1)
	}
	a.masks = append(a.masks, s)
	return s.mask
}

// steer returns the ids that leave an end within left more ids: as many bytes,
// since every byte is an id. Where there is none any more, it returns those on
// the shortest way.
func (a *Automaton) steer(s *state, left int32) *mask {
	if s.done || s.least <= left+1 {
		return a.search(s, left)
	}
	k := a.empty()
	a.each(s, func(ids []int32, depth int, to *state) {
		if to.least == s.least-int32(depth) {
			for _, id := range ids {
				k.allow(id, to.least)
			}
		}
	})
	return k
}

// search returns the ids behind which an end is at most so many bytes away.
func (a *Automaton) search(s *state, most int32) *mask {
	k := a.empty()
	a.each(s, func(ids []int32, _ int, to *state) {
		if to.least <= most {
			for _, id := range ids {
				k.allow(id, to.least)
			}
		}
	})
	return k
}

func (a *Automaton) empty() *mask { return &mask{bits: make([]uint64, (a.vocab.Len()+63)/64)} }

// each walks the vocabulary's trie along the automaton and calls f for every
// text that can come, with its ids and its length.
func (a *Automaton) each(s *state, f func(ids []int32, length int, to *state)) {
	v, walk := a.vocab, a.walk
	walk[0] = s
	for n := int32(0); int(n) < len(v.byte) && a.work <= maxWork; {
		d := v.depth[n]
		from := walk[d]
		var to *state
		if from.next != nil {
			to = from.next[a.class[v.byte[n]]]
		}
		if to == nil {
			to = a.step(from, v.byte[n])
		}
		if to == dead {
			n = v.skip[n]
			continue
		}
		walk[d+1] = to
		if ids := v.ids[v.first[n]:v.first[n+1]]; len(ids) > 0 {
			f(ids, int(d)+1, to)
		}
		n++
	}
}
