package engine

import (
	"math"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// outcome is the memory of a result: what all its sessions sampled lies in one
// list of each kind. Where a list moves as it grows, what was said before stays
// where it was.
type outcome struct {
	result   frame.Result
	ids      []int32
	logProbs []frame.LogProb
	tops     []sample.TopLogProb
}

// begin starts the result of a frame, in the memory of an earlier one.
func (o *outcome) begin(f *frame.Frame, timings []frame.Timing) *frame.Result {
	clear(o.result.Sampled)
	o.result = frame.Result{
		Epoch: f.Epoch, Pipeline: f.Pipeline, Step: f.Step,
		Sampled: o.result.Sampled[:0], Timings: timings,
	}
	o.ids, o.logProbs, o.tops = o.ids[:0], o.logProbs[:0], o.tops[:0]
	return &o.result
}

// addID appends to the ids of the session that is being sampled, which are the
// last ones of the list.
func (o *outcome) addID(mine []int32, id int32) []int32 {
	o.ids = append(o.ids, id)
	return last(o.ids, len(mine)+1)
}

// addLogProb is addID for the log-probability of a choice. Alternatives that
// cannot be chosen at all are left out.
func (o *outcome) addLogProb(mine []frame.LogProb, c *sample.Choice) []frame.LogProb {
	n := 0
	for _, t := range c.Top {
		if !math.IsInf(float64(t.LogProb), -1) {
			o.tops = append(o.tops, t)
			n++
		}
	}
	o.logProbs = append(o.logProbs, frame.LogProb{LogProb: c.LogProb, Top: last(o.tops, n)})
	return last(o.logProbs, len(mine)+1)
}

// last returns the last n elements of a list, without room to grow into it.
func last[T any](list []T, n int) []T { return list[len(list)-n : len(list) : len(list)] }
