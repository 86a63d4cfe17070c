package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// Local is a pipeline of stages in one process, without a network: each frame
// passes all stages before the next begins. It serves `shoal run`, benchmarks
// and tests, with the same stages as a cluster.
type Local struct {
	stages   []*Stage
	epoch    uint64
	pipeline uint32
	step     uint64
	pending  []frame.Op // for the next frame

	// Rows gives the rows of a picture, as little-endian float32; nil: there are none.
	Rows func(hash [32]byte) []byte
}

// NewLocal makes a pipeline of stages in order. Each stage's backend is used by
// this pipeline alone or shared among its stages.
func NewLocal(stages ...*Stage) *Local {
	return &Local{stages: stages, epoch: stages[0].cfg.Epoch, pipeline: stages[0].cfg.Pipeline}
}

// Close closes the stages. Their backends stay with whoever opened them.
func (l *Local) Close() error {
	var err error
	for _, s := range l.stages {
		err = errors.Join(err, s.Close())
	}
	return err
}

// Step sends one step through all stages and returns its result, which is valid
// until compute.MaxPasses steps later.
func (l *Local) Step(ops []frame.Op, spans []frame.Span) (*frame.Result, error) {
	l.step++
	f := &frame.Frame{Epoch: l.epoch, Pipeline: l.pipeline, Step: l.step, Ops: ops, Spans: spans}
	first := l.stages[0]
	for i := range spans {
		for _, p := range first.picturesOf(spans[i].Slot, f) {
			if l.Rows == nil {
				return nil, fmt.Errorf("step %d: a session has pictures, and nobody gives their rows", l.step)
			}
			f.AddRows(p, &spans[i], l.Rows(p.Hash), 4*first.spec.Hidden)
		}
	}
	for _, s := range l.stages {
		if err := s.Start(l.step, f); err != nil {
			return nil, err
		}
		out, err := s.Finish(<-s.be.Completions())
		if err != nil {
			return nil, err
		}
		if out.Result != nil {
			return out.Result, nil
		}
		f = out.Frame
	}
	return nil, fmt.Errorf("step %d: the last stage has no head", l.step)
}

// Generate runs one session: it yields a Sampled per step until the answer
// ends, the context is done, or the consumer stops. prompt must not be empty. A
// Sampled is valid until the next one.
func (l *Local) Generate(ctx context.Context, open *frame.Open, prompt []int32) iter.Seq2[frame.Sampled, error] {
	return func(yield func(frame.Sampled, error) bool) {
		open.AnswerStart = int32(len(prompt))
		l.pending = append(l.pending, frame.Op{Open: open})
		defer func() { l.pending = append(l.pending, frame.Op{Close: &frame.Close{Slot: open.Slot}}) }()
		next, pos := prompt, int32(0)
		for {
			if err := ctx.Err(); err != nil {
				yield(frame.Sampled{}, err)
				return
			}
			out, n, err := l.advance(open, next, pos)
			if err != nil {
				yield(frame.Sampled{}, err)
				return
			}
			pos += int32(n)
			next = next[n:]
			if len(next) > 0 {
				continue // a prefill chunk
			}
			if !yield(out, nil) || out.Finish != frame.FinishNone {
				return
			}
			next = out.IDs
		}
	}
}

// advance computes the next chunk of ids and returns how many it took.
func (l *Local) advance(open *frame.Open, ids []int32, pos int32) (frame.Sampled, int, error) {
	n := min(len(ids), l.stages[0].cfg.Rows)
	span := frame.Span{Slot: open.Slot, Attempt: open.Attempt, Start: pos, Tokens: ids[:n]}
	if n == len(ids) {
		span.Output = frame.OutputSample
	}
	ops := l.pending
	l.pending = nil
	r, err := l.Step(ops, []frame.Span{span})
	if err != nil {
		return frame.Sampled{}, 0, err
	}
	for _, s := range r.Sampled {
		if s.Err != "" {
			return s, n, fmt.Errorf("position %d: %s", pos, s.Err)
		}
		return s, n, nil
	}
	return frame.Sampled{}, n, nil
}
