package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/synthetic"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// weights are a model to measure.
type weights struct {
	name  string
	arch  model.Arch
	src   model.Source
	spec  model.Spec
	bytes uint64
	close func() error
}

// openWeights opens a synthetic model by its name, or a file.
func openWeights(name string) (weights, error) {
	if m, err := synthetic.Open(name); err == nil {
		return weights{name, m.Arch, m.Source, m.Spec, m.Bytes(model.Whole(m.Spec)), func() error { return nil }}, nil
	}
	m, err := library.Library{}.Open(name)
	if errors.Is(err, library.ErrNotFound) {
		return weights{}, fmt.Errorf("model %q is neither synthetic (8b, 1b or nano, and :FORMAT) nor a file", name)
	}
	if err != nil {
		return weights{}, err
	}
	return weights{m.Name, m.Arch, m.Source, m.Spec, m.Bytes(model.Whole(m.Spec)), m.Close}, nil
}

// workload is what a run does: every stream reads a prompt of its own and then
// samples greedily, all together.
type workload struct {
	streams, prefill, decode int
	kv                       compute.KVClass
}

// runner runs workloads on a pipeline in this process, without a network.
type runner struct {
	*engine.Local
	rows     int
	vocab    int
	sequence uint32
	loaded   time.Duration // what it took until the device had all weights
	between  func()        // called after the prompts of a run; may be nil
}

// newRunner loads a model on a device, split into stages.
func newRunner(be compute.Backend, m weights, stages int, w workload) (*runner, error) {
	if stages < 1 || stages > m.spec.Layers {
		return nil, fmt.Errorf("--stages %d: %s has %d layers", stages, m.name, m.spec.Layers)
	}
	context := w.prefill + w.decode + 1
	if context > m.spec.Context {
		return nil, fmt.Errorf("prompt and answer have %d positions, %s has a context of %d", context, m.name, m.spec.Context)
	}
	r := &runner{rows: max(min(w.prefill, 512), w.streams), vocab: m.spec.Vocab}
	began := time.Now()
	var parts []*engine.Stage
	for i := range stages {
		first, end := i*m.spec.Layers/stages, (i+1)*m.spec.Layers/stages
		st, err := engine.Open(be, m.arch, m.src, m.spec, engine.Config{
			Epoch: 1, Stage: uint32(i), Part: model.Part{First: first, End: end, Embed: first == 0, Head: end == m.spec.Layers},
			Pages: w.streams * (context/compute.PageTokens + 1), Slots: w.streams, Rows: r.rows, Context: context, KV: w.kv,
		})
		if err != nil {
			for _, p := range parts {
				err = errors.Join(err, p.Close())
			}
			return nil, err
		}
		parts = append(parts, st)
	}
	r.Local = engine.NewLocal(parts...)
	if _, err := r.Step(nil, nil); err != nil { // an empty pass comes after all uploads
		return nil, errors.Join(err, r.Close())
	}
	r.loaded = time.Since(began)
	return r, nil
}

// times is what a phase of a run took.
type times struct {
	tokens int
	steps  int
	wall   time.Duration
	device time.Duration // of it
}

func (t times) rate() float64 { return float64(t.tokens) / t.wall.Seconds() }

// run runs a workload once.
func (r *runner) run(ctx context.Context, w workload) (prefill, decode times, err error) {
	ops := make([]frame.Op, w.streams)
	last := make([][]int32, w.streams)
	r.sequence++
	for s := range w.streams {
		ops[s].Open = &frame.Open{
			Slot: frame.Slot(s), Attempt: r.sequence, AnswerStart: int32(w.prefill),
			Sampling: sample.Spec{IgnoreEOS: true, MaxTokens: int32(w.decode) + 1},
		}
	}
	began := time.Now()
	for s := range w.streams {
		if last[s], err = r.read(ops, s, w.prefill, &prefill); err != nil {
			return prefill, decode, err
		}
		ops = nil
	}
	prefill.tokens, prefill.wall = w.streams*w.prefill, time.Since(began)
	if r.between != nil {
		r.between()
	}
	began = time.Now()
	for i := range w.decode {
		if err := ctx.Err(); err != nil {
			return prefill, decode, err
		}
		spans := make([]frame.Span, w.streams)
		for s := range spans {
			spans[s] = frame.Span{Slot: frame.Slot(s), Attempt: r.sequence, Start: int32(w.prefill + i), Tokens: last[s], Output: frame.OutputSample}
		}
		out, err := r.step(nil, spans, &decode)
		if err != nil {
			return prefill, decode, err
		}
		for s := range out {
			last[s] = out[s].IDs
		}
	}
	decode.tokens, decode.wall = w.streams*w.decode, time.Since(began)
	var closing []frame.Op
	for s := range w.streams {
		closing = append(closing, frame.Op{Close: &frame.Close{Slot: frame.Slot(s)}})
	}
	_, err = r.Step(closing, nil)
	return prefill, decode, err
}

// read runs the prompt of a stream and returns the first id of its answer.
func (r *runner) read(ops []frame.Op, stream, n int, t *times) ([]int32, error) {
	random := rand.New(rand.NewPCG(uint64(stream), 1))
	prompt := make([]int32, n)
	for i := range prompt {
		prompt[i] = random.Int32N(int32(r.vocab))
	}
	for start := 0; ; {
		count := min(n-start, r.rows)
		span := frame.Span{Slot: frame.Slot(stream), Attempt: r.sequence, Start: int32(start), Tokens: prompt[start : start+count]}
		if start += count; start == n {
			span.Output = frame.OutputSample
		}
		out, err := r.step(ops, []frame.Span{span}, t)
		if err != nil {
			return nil, err
		}
		if start == n {
			return out[0].IDs, nil
		}
		ops = nil
	}
}

// step sends one step and adds what the device took for it.
func (r *runner) step(ops []frame.Op, spans []frame.Span, t *times) ([]frame.Sampled, error) {
	out, err := r.Step(ops, spans)
	if err != nil {
		return nil, err
	}
	t.steps++
	for _, s := range out.Timings {
		t.device += time.Duration(s.ComputeNS)
	}
	for _, s := range out.Sampled {
		if s.Err != "" {
			return nil, fmt.Errorf("position %d: %s", s.Position, s.Err)
		}
	}
	return out.Sampled, nil
}
