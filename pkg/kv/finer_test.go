package kv

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/frame"
)

var steps = compute.KVClass{Bits: 2, Group: 32, Recent: 64, Upper: 4, Far: 192}

// TestFinerFormsAreThereForWhoSeesThem: whatever sessions do, a row has the finer
// forms of all pages that it may see in them, no two pages share a place, a page
// keeps its place for as long as it has one, and the pools never run out while no
// session takes back more than 64 rows.
func TestFinerFormsAreThereForWhoSeesThem(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{Pages: 60, Slots: 3, Rows: 200, Context: 1200, KV: steps}
		log := NewLog(cfg)
		type session struct {
			length, drafted int
			places          map[[2]int]int32 // form and page to place
		}
		open := map[frame.Slot]*session{}
		for range rapid.IntRange(1, 60).Draw(t, "frames") {
			f := &frame.Frame{Step: log.Next()}
			rows := cfg.Rows
			for slot := range frame.Slot(cfg.Slots) {
				s := open[slot]
				switch act := rapid.IntRange(0, 9).Draw(t, "act"); {
				case s == nil:
					f.Ops = append(f.Ops, frame.Op{Open: &frame.Open{Slot: slot}})
					s = &session{places: map[[2]int]int32{}}
					open[slot] = s
				case act == 0:
					f.Ops = append(f.Ops, frame.Op{Close: &frame.Close{Slot: slot}})
					delete(open, slot)
					continue
				case act < 4 && s.drafted > 0:
					back := rapid.IntRange(1, s.drafted).Draw(t, "back")
					s.length -= back
					f.Ops = append(f.Ops, frame.Op{Truncate: &frame.Truncate{Slot: slot, Len: int32(s.length)}})
					for at := range s.places {
						if at[1]*PageTokens >= s.length {
							delete(s.places, at)
						}
					}
				}
				n := min(rapid.SampledFrom([]int{0, 1, 1, 5, 63, 64, 65, 200}).Draw(t, "rows"), rows, cfg.Context-s.length)
				if n == 0 {
					s.drafted = 0
					continue
				}
				rows -= n
				s.drafted = min(rapid.IntRange(0, 64).Draw(t, "drafted"), n-1)
				f.Spans = append(f.Spans, frame.Span{Slot: slot, Start: int32(s.length), Tokens: make([]int32, n), Drafted: uint8(s.drafted)})
				s.length += n
			}
			step, err := log.Apply(f)
			if err != nil {
				t.Fatal(err)
			}
			used := [2]map[int32]bool{{}, {}}
			for _, sp := range step.Spans {
				s := open[sp.Slot]
				first, end := sp.Start/PageTokens, pagesOf(sp.Start+sp.Count)
				for form, table := range [][]int32{sp.Recent, sp.Upper} {
					reach := []int{steps.Recent, steps.Far}[form] / PageTokens
					for page := range end {
						place, at := table[page], [2]int{form, page}
						if seen := page >= first-reach || page == 0 && form == 0; seen && place < 0 {
							t.Fatalf("a row of page %d finds no form %d of page %d", first, form, page)
						}
						if place < 0 {
							continue
						}
						if used[form][place] {
							t.Fatalf("two pages are at place %d of form %d", place, form)
						}
						used[form][place] = true
						if was, ok := s.places[at]; ok && was != place {
							t.Fatalf("form %d of page %d moved from %d to %d", form, page, was, place)
						}
						s.places[at] = place
					}
				}
			}
		}
		f := &frame.Frame{Step: log.Next()}
		for slot := range open {
			f.Ops = append(f.Ops, frame.Op{Close: &frame.Close{Slot: slot}})
		}
		if _, err := log.Apply(f); err != nil {
			t.Fatal(err)
		}
		for i := range log.finer {
			if f := &log.finer[i]; f.free != len(f.refs) {
				t.Fatalf("%d of %d places of form %d are left when all are closed", f.free, len(f.refs), i)
			}
		}
	})
}

// TestRefusedFrameGivesBackFinerForms: a refused frame changes no place.
func TestRefusedFrameGivesBackFinerForms(t *testing.T) {
	log := NewLog(Config{Pages: 20, Slots: 2, Rows: 256, Context: 640, KV: steps})
	apply := func(ops []frame.Op, spans ...frame.Span) (*Step, error) {
		return log.Apply(&frame.Frame{Step: log.Next(), Ops: ops, Spans: spans})
	}
	span := func(start, n, drafted int) frame.Span {
		return frame.Span{Start: int32(start), Tokens: make([]int32, n), Drafted: uint8(drafted)}
	}
	if _, err := apply([]frame.Op{{Open: &frame.Open{}}}, span(0, 256, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := apply([]frame.Op{{Truncate: &frame.Truncate{Len: 255}}, {Close: &frame.Close{}}, {Close: &frame.Close{}}}); !errors.Is(err, ErrInvalid) {
		t.Fatal(err)
	}
	if _, err := apply([]frame.Op{{Truncate: &frame.Truncate{Len: 130}}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("truncated to rows whose finer pages are given back: %v", err)
	}
	for name, op := range map[string]frame.Op{
		"publish": {Publish: &frame.Publish{Tokens: 64}}, "adopt": {Adopt: &frame.Adopt{Tokens: 64}},
	} {
		if _, err := apply([]frame.Op{op}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s of pages that step down: %v", name, err)
		}
	}
	step, err := apply(nil, span(256, 1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if got := step.Spans[0].Recent; got[0] < 0 || got[1] >= 0 || got[2] >= 0 || got[3] < 0 || got[4] < 0 {
		t.Errorf("pages in halves at %v, want the first and the last two", got)
	}
}
