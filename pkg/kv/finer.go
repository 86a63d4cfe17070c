package kv

import (
	"fmt"
	"slices"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// finer is a form of pages that only near rows see: a pool of places for it.
type finer struct {
	pages
	reach int  // in pages: how far before its own page a row sees this form
	first bool // page 0 keeps it
}

// newFiner returns the finer forms of a class, the finest first.
func newFiner(cfg Config) []finer {
	pools := cfg.KV.Pools(cfg.Slots, cfg.Rows, cfg.Pages)
	var out []finer
	if cfg.KV.Steps() {
		out = append(out, finer{newPages(pools.Recent), cfg.KV.Recent / PageTokens, true})
	}
	if cfg.KV.Upper != 0 {
		out = append(out, finer{newPages(pools.Upper), cfg.KV.Far / PageTokens, false})
	}
	return out
}

// held is where the pages of a slot are in one finer form.
type held struct {
	table []int32 // for each page its place, -1 where it is given back
	from  int     // pages before this one have been given back, but page 0 where it keeps the form
}

// released is the place in a slot's tables before which no row from position n on
// sees the form.
func (l *Log) released(f *finer, s *slot, n int) int {
	_, gone := l.cfg.KV.Kept(s.thinned)
	return n/PageTokens - f.reach - gone
}

// spare returns how many places a slot gives back once all positions before n are
// certain.
func (l *Log) spare(f *finer, s *slot, h *held, n int) (places int) {
	for page := h.from; page < min(l.released(f, s, n), len(h.table)); page++ {
		if page > 0 || !f.first {
			places++
		}
	}
	return places
}

// coarsen gives back the finer forms that no row of a slot from position n on
// sees.
func (l *Log) coarsen(s *slot, n int) {
	for i := range l.finer {
		f, h := &l.finer[i], &s.finer[i]
		for ; h.from < min(l.released(f, s, n), len(h.table)); h.from++ {
			if h.from > 0 || !f.first {
				f.release(h.table[h.from])
				h.table[h.from] = -1
			}
		}
	}
}

// checkFiner reports whether the pools have places for the pages that the spans
// begin.
func (l *Log) checkFiner(f *frame.Frame) error {
	for i := range l.finer {
		form, wanted, spare := &l.finer[i], 0, 0
		for j := range f.Spans {
			sp := &f.Spans[j]
			s := &l.slots[sp.Slot]
			wanted += pagesOf(s.length+len(sp.Tokens)) - pagesOf(s.length)
			spare += l.spare(form, s, &s.finer[i], s.length)
		}
		if wanted > form.free+spare {
			return fmt.Errorf("%w: %d wanted in a finer form, %d of %d free", ErrNoPages, wanted, form.free+spare, len(form.refs))
		}
	}
	return nil
}

// takeFiner takes places for a new page of a slot, and returns where it is
// written: its place in the finest form, or the page itself.
func (l *Log) takeFiner(s *slot, page int32) (written int32) {
	written = page
	for i := range l.finer {
		place := l.finer[i].take()
		s.finer[i].table = append(s.finer[i].table, place)
		if i == 0 {
			written = place
		}
	}
	return written
}

// checkTruncate reports whether a slot still has the finer forms that rows from
// position n on see.
func (l *Log) checkTruncate(s *slot, n int) error {
	for i := range l.finer {
		if h := &s.finer[i]; n > 0 && h.from > max(l.released(&l.finer[i], s, n), 1) { // of page 0 rows see one form alone
			return invalid("truncated to %d, from where on pages before %d are seen in a finer form that is given back", n, h.from)
		}
	}
	return nil
}

// dropFiner gives back the finer forms of a slot's pages from keep on.
func (l *Log) dropFiner(s *slot, keep int) {
	for i := range l.finer {
		f, h := &l.finer[i], &s.finer[i]
		old := *h
		gone := slices.DeleteFunc(slices.Clone(h.table[min(keep, len(h.table)):]), func(place int32) bool { return place < 0 })
		for _, place := range gone {
			f.release(place)
		}
		h.table, h.from = h.table[:min(keep, len(h.table))], min(h.from, keep)
		l.onUndo(func() {
			for _, place := range gone {
				f.hold(place)
			}
			*h = old
		})
	}
}
