package engine_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// parts are stages at every place of a pipeline.
var parts = map[string]model.Part{
	"whole":  {First: 0, End: 8, Embed: true, Head: true},
	"first":  {First: 0, End: 3, Embed: true},
	"middle": {First: 3, End: 6},
	"last":   {First: 6, End: 8, Head: true},
}

// decoder sends decode steps of some sessions to one stage of a pipeline.
type decoder struct {
	*rig
	frame frame.Frame
}

// newDecoder opens n sessions of a stage, each with the rows of a prompt.
func newDecoder(t *testing.T, part model.Part, n int, spec sample.Spec) *decoder {
	d := &decoder{rig: newRig(t, engine.Config{Part: part}), frame: frame.Frame{Epoch: 1}}
	for slot := range frame.Slot(n) {
		d.frame.Ops = append(d.frame.Ops, frame.Op{Open: &frame.Open{Slot: slot, Attempt: 1, Sampling: spec, AnswerStart: 2}})
		d.frame.Spans = append(d.frame.Spans, frame.Span{Slot: slot, Attempt: 1, Tokens: []int32{1, 451}, Output: frame.OutputSample})
	}
	d.rows(part, 2*n)
	d.step()
	d.frame.Ops = nil
	for i := range d.frame.Spans {
		span := &d.frame.Spans[i]
		span.Start, span.Tokens = 1, span.Tokens[:1]
	}
	d.rows(part, n)
	return d
}

// rows gives the frame activations, if the stage is not the first.
func (d *decoder) rows(part model.Part, n int) {
	if part.Embed {
		return
	}
	d.frame.DType, d.frame.Rows = frame.DTypeF32, make([]byte, n*256*4)
	for i := 0; i < len(d.frame.Rows); i += 4 {
		copy(d.frame.Rows[i:], []byte{byte(i), 0, 0x80, 0x3f})
	}
}

// step sends the next step through the stage.
func (d *decoder) step() engine.Output {
	d.frame.Step++
	for i := range d.frame.Spans {
		if d.frame.Step > 1 {
			d.frame.Spans[i].Start++
		}
	}
	if err := d.stage.Start(d.frame.Step, &d.frame); err != nil {
		d.t.Fatal(err)
	}
	out, err := d.stage.Finish(<-d.be.Completions())
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

// TestOutputsOutliveMaxPassesFrames: what a step gave stays as it was while
// compute.MaxPasses more are started and finished.
func TestOutputsOutliveMaxPassesFrames(t *testing.T) {
	spec := sample.Spec{Temperature: 1, Seed: 3, LogProbs: true, TopLogProbs: 3}
	d := newDecoder(t, parts["whole"], 4, spec)
	type kept struct {
		lent *frame.Result
		text string
	}
	var ring []kept
	for range 4 * compute.MaxPasses {
		r := d.step().Result
		ring = append(ring, kept{r, fmt.Sprintf("%+v", *r)})
		if len(ring) > compute.MaxPasses {
			ring = ring[1:]
		}
		for _, k := range ring {
			if now := fmt.Sprintf("%+v", *k.lent); now != k.text {
				t.Fatalf("a result was %s and became %s", k.text, now)
			}
		}
		for i, s := range r.Sampled {
			if len(s.IDs) != 1 || len(s.LogProbs) != 1 || len(s.LogProbs[0].Top) != 3 || math.IsNaN(float64(s.LogProbs[0].LogProb)) {
				t.Fatalf("session %d sampled %+v", i, s)
			}
			d.frame.Spans[i].Tokens[0] = s.IDs[0]
		}
	}
}
