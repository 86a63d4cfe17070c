// Package modeltest holds what every architecture must satisfy: the goldens of
// outside frameworks, and that no split, chunking, batch or instruction set
// changes a bit of its answers.
package modeltest

import (
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
)

// setup is a way to run a model.
type setup struct {
	cpu    cpu.Config
	stages int
	rows   int // largest batch
	slots  int

	adapters []model.Adapter
}

// open opens a model file for the test.
func open(tb testing.TB, path string) *library.Model {
	tb.Helper()
	m, err := library.Library{}.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close() })
	return m
}

// pipeline loads a model split over s.stages stages, each with a backend of its own.
func pipeline(tb testing.TB, m *library.Model, s setup) *engine.Local {
	tb.Helper()
	const context = 512
	var stages []*engine.Stage
	for i := range s.stages {
		be, err := cpu.Open(s.cpu)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { be.Close() })
		first, end := i*m.Spec.Layers/s.stages, (i+1)*m.Spec.Layers/s.stages
		st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
			Epoch: 1, Stage: uint32(i),
			Part:  model.Part{First: first, End: end, Embed: first == 0, Head: end == m.Spec.Layers},
			Pages: s.slots * context / 64, Slots: s.slots, Rows: s.rows, Context: min(context, m.Spec.Context),
			Adapters: s.adapters,
		})
		if err != nil {
			tb.Fatal(err)
		}
		stages = append(stages, st)
	}
	return engine.NewLocal(stages...)
}

// logitsOf prefills ids in one session, in chunks, and returns the logits of the
// last position.
func logitsOf(tb testing.TB, l *engine.Local, slot frame.Slot, ids []int32, chunk int) []float32 {
	tb.Helper()
	return adaptedLogits(tb, l, "", slot, ids, chunk)
}

// adaptedLogits is logitsOf through an adapter.
func adaptedLogits(tb testing.TB, l *engine.Local, adapter string, slot frame.Slot, ids []int32, chunk int) []float32 {
	tb.Helper()
	ops := []frame.Op{{Open: &frame.Open{Slot: slot, Attempt: 1, Adapter: adapter}}}
	var out []float32
	for at := 0; at < len(ids); at += chunk {
		n := min(chunk, len(ids)-at)
		span := frame.Span{Slot: slot, Attempt: 1, Start: int32(at), Tokens: ids[at : at+n]}
		if at+n == len(ids) {
			span.Output = frame.OutputLogits
		}
		out = step(tb, l, ops, span)
		ops = nil
	}
	return out
}

// step runs one step of one span and returns its logits, if it asked for any.
func step(tb testing.TB, l *engine.Local, ops []frame.Op, span frame.Span) []float32 {
	tb.Helper()
	r, err := l.Step(ops, []frame.Span{span})
	if err != nil {
		tb.Fatal(err)
	}
	if span.Output == frame.OutputNone {
		return nil
	}
	if len(r.Sampled) != 1 || r.Sampled[0].Err != "" {
		tb.Fatalf("result %+v", r.Sampled)
	}
	return slices.Clone(r.Sampled[0].Logits)
}

// closeSlot ends a session.
func closeSlot(tb testing.TB, l *engine.Local, slot frame.Slot) {
	tb.Helper()
	if _, err := l.Step([]frame.Op{{Close: &frame.Close{Slot: slot}}}, nil); err != nil {
		tb.Fatal(err)
	}
}

// argmax returns the lowest id of the largest logit.
func argmax(logits []float32) int32 {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	return int32(best)
}
