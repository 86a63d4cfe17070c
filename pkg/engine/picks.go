package engine

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// pickCols are the columns of what a pass picks.
const pickCols = 2

// newPicks makes room for what the device picks from the rows of a step, if the
// stage has the head.
func newPicks(arena compute.Arena, cfg Config) (compute.Buffer, error) {
	if !cfg.Part.Head {
		return nil, nil
	}
	b, err := arena.NewBuffer(cfg.Rows, pickCols)
	if err != nil {
		return nil, fmt.Errorf("make room for what the device picks: %w", err)
	}
	return b, nil
}

// pick has the device find the largest of the logits where a step wants no more
// than that, and returns what to read.
func (s *Stage) pick(p compute.Pass, w *work, logits compute.Buffer) compute.Buffer {
	if logits == nil || !s.isPlain(w.frame) {
		return logits
	}
	p.Pick(s.picks, logits, len(w.logits))
	w.picked = true
	return s.picks
}

// isPlain reports whether all that a frame samples is the ids of largest logits.
func (s *Stage) isPlain(f *frame.Frame) bool {
	for i := range f.Spans {
		span := &f.Spans[i]
		if span.Output == frame.OutputLogits || span.Output == frame.OutputSample && !s.plain[span.Slot] {
			return false
		}
	}
	return true
}

// choices are rows to choose ids from: logits, or what the device has picked from
// them.
type choices struct {
	picked bool
	cols   int
	values []float32
}

// choices returns the rows of a step that has been read.
func (s *Stage) choices(w *work) choices {
	if w.picked {
		return choices{true, pickCols, w.values}
	}
	return choices{false, s.spec.Vocab, w.values}
}

// take removes the first n rows and returns them.
func (c *choices) take(n int) choices {
	mine := choices{c.picked, c.cols, c.values[: n*c.cols : n*c.cols]}
	c.values = c.values[n*c.cols:]
	return mine
}

// id returns the id of a row that the device picked from.
func (c *choices) id() (int32, error) {
	if c.values[1] == 0 {
		return 0, sample.ErrNotFinite
	}
	return int32(c.values[0]), nil
}
