package engine

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// picturesOf returns the pictures of a slot as of the spans of f.
func (s *Stage) picturesOf(slot frame.Slot, f *frame.Frame) []frame.Picture {
	pictures := s.pictures[slot]
	for i := range f.Ops {
		if o := f.Ops[i].Open; o != nil && o.Slot == slot {
			pictures = o.Pictures
		}
	}
	return pictures
}

// seen appends to at the rows of the batch that are rows of pictures.
func (s *Stage) seen(at []int32, f *frame.Frame) []int32 {
	row := int32(0)
	for i := range f.Spans {
		span := &f.Spans[i]
		n := int32(len(span.Tokens))
		for _, p := range s.picturesOf(span.Slot, f) {
			for first, end := p.Overlap(span.Start, n); first < end; first++ {
				at = append(at, row+first-span.Start)
			}
		}
		row += n
	}
	return at
}

// checkRows holds the bytes of a frame's rows against the plan and the sessions: the
// first stage takes those of pictures, others those of all positions.
func (s *Stage) checkRows(f *frame.Frame, rows int) error {
	what := "positions"
	if s.cfg.Part.Embed {
		s.at = s.seen(s.at[:0], f)
		rows, what = len(s.at), "rows of pictures"
	}
	if want := rows * s.spec.Hidden * 4; len(f.Rows) != want {
		return fmt.Errorf("%w: %d bytes of activations for %d %s, want %d", ErrBadFrame, len(f.Rows), rows, what, want)
	}
	return nil
}
