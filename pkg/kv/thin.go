package kv

import (
	"fmt"
	"slices"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// block is the pages of a slot's table that become fewer: [from, from+pages), the
// first kept of them. Page 0 is none of them.
type block struct{ from, pages, kept int }

// due returns the block of a slot that is thinned before its next row, if there is
// one.
func (l *Log) due(s *slot) (b block, ok bool) {
	if l.cfg.KV.Thinned(s.length) == s.thinned {
		return b, false
	}
	before, _ := l.cfg.KV.Kept(s.thinned)
	after, _ := l.cfg.KV.Kept(s.thinned + 1)
	_, gone := l.cfg.KV.Kept(1)
	b = block{from: before, kept: after - before}
	b.pages = b.kept + gone
	if b.from == 0 {
		b = block{from: 1, pages: b.pages - 1, kept: b.kept - 1}
	}
	return b, true
}

// freeThinned returns how many pages are free once the blocks that are due are
// thinned.
func (l *Log) freeThinned(f *frame.Frame) (free int, err error) {
	free = l.pages.free
	var released map[int32]uint32 // holders of shared pages that let go of them
	for i := range f.Spans {
		s := &l.slots[f.Spans[i].Slot]
		b, ok := l.due(s)
		if !ok {
			continue
		}
		for _, page := range s.table[b.from : b.from+b.pages] {
			if l.pages.shared(page) {
				if released == nil {
					released = map[int32]uint32{}
				}
				released[page]++
			}
			if l.pages.refs[page] == max(1, released[page]) {
				free++
			}
		}
		if free -= b.kept; free < 0 {
			return free, fmt.Errorf("%w: %d wanted for what old positions keep", ErrNoPages, b.kept)
		}
	}
	return free, nil
}

// thin gives a slot fewer pages for the block that is due, and returns the pages it
// had. They are free: the step reads them before it writes any page. Finer forms of
// them have been given back.
func (l *Log) thin(s *slot, step *Step) (from []int32) {
	b, ok := l.due(s)
	if !ok {
		return nil
	}
	at := len(step.thinned)
	step.thinned = append(step.thinned, s.table[b.from:b.from+b.pages]...)
	from = step.thinned[at:len(step.thinned):len(step.thinned)]
	for _, page := range from {
		l.pages.release(page)
	}
	for i := range b.kept {
		s.table[b.from+i] = l.pages.take()
	}
	s.table = slices.Delete(s.table, b.from+b.kept, b.from+b.pages)
	for i := range l.finer {
		h := &s.finer[i]
		h.table = slices.Delete(h.table, b.from+b.kept, b.from+b.pages)
		h.from -= b.pages - b.kept
	}
	s.thinned++
	return from
}
