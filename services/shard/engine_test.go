package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/kv"
	"github.com/shoal-llm/shoal/pkg/model"
)

// fakeBackend completes passes as they are submitted; nothing is computed.
type fakeBackend struct {
	compute.Backend
	done chan compute.Completion
	fail atomic.Bool // the device fails
	lost atomic.Bool // it is gone

	mu      sync.Mutex // completions keep the order of submission
	holding bool       // the device does not complete
	held    []compute.Completion
}

func newFakeBackend() *fakeBackend {
	return &fakeBackend{done: make(chan compute.Completion, compute.MaxPasses)}
}

func (b *fakeBackend) Completions() <-chan compute.Completion { return b.done }
func (b *fakeBackend) Info() compute.Info {
	return compute.Info{Kind: "fake", Name: "a fake", Class: "fake", Threads: 1, Memory: 1 << 30, NUMA: compute.NUMA{Nodes: 2, On: []int{1}}}
}
func (b *fakeBackend) Used() compute.Memory { return compute.Memory{Weights: 1000} }

func (b *fakeBackend) submit(tag uint64) {
	c := compute.Completion{Tag: tag, Elapsed: time.Microsecond}
	if b.fail.Load() {
		c.Err = errors.New("the device is gone")
	}
	if b.lost.Load() {
		c.Err = fmt.Errorf("submit to the driver: %w", compute.ErrLost)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.holding {
		b.held = append(b.held, c)
		return
	}
	b.done <- c
}

// hold makes the device complete nothing until resume.
func (b *fakeBackend) hold() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holding = true
}

// resume completes what was held.
func (b *fakeBackend) resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holding = false
	for _, c := range b.held {
		b.done <- c
	}
	b.held = nil
}

const (
	fakeHidden  = 8
	fakeVocab   = 50
	fakeLayers  = 6
	fakeContext = 256
	stopID      = 7
)

// next is the fake model: the id that follows ids.
func next(seed uint64, ids []int32) int32 {
	h := fnv.New64a()
	fmt.Fprint(h, seed, ids)
	return int32(h.Sum64() % fakeVocab)
}

// alone is the answer to a prompt, at most most ids.
func alone(seed uint64, prompt []int32, most int) []int32 {
	ids := slices.Clone(prompt)
	for len(ids)-len(prompt) < most {
		id := next(seed, ids)
		ids = append(ids, id)
		if id == stopID {
			break
		}
	}
	return ids[len(prompt):]
}

// row is what a stage hands on for an id at a position: the next stage checks
// that it arrived whole.
func row(dst []byte, stage int, position int32, id int32) []byte {
	for i := range fakeHidden {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(stage)<<24^uint32(position)<<12^uint32(id)<<4^uint32(i))
	}
	return dst
}

// fakeEngine is one part of the fake model.
type fakeEngine struct {
	be      *fakeBackend
	cfg     engine.Config
	log     *kv.Log
	started []*frame.Frame
	ids     map[frame.Slot][]int32
	open    map[frame.Slot]*frame.Open
	memory  [compute.MaxPasses][]byte // lent rows
	turn    int
}

// loadFake is a Loader. It reads every tensor, as a real one.
func loadFake(be compute.Backend, arch model.Arch, src model.Source, spec model.Spec, cfg engine.Config) (Engine, error) {
	for _, name := range arch.Tensors(spec, cfg.Part) {
		if _, ok := src.Tensor(name); !ok {
			return nil, fmt.Errorf("no tensor %s", name)
		}
	}
	return &fakeEngine{
		be: fakeOf(be), cfg: cfg,
		log: kv.NewLog(kv.Config{Epoch: cfg.Epoch, Pipeline: cfg.Pipeline, Pages: cfg.Pages, Slots: cfg.Slots, Rows: cfg.Rows, Context: cfg.Context}),
		ids: map[frame.Slot][]int32{}, open: map[frame.Slot]*frame.Open{},
	}, nil
}

// fakeOf returns the fake below what stages see.
func fakeOf(be compute.Backend) *fakeBackend {
	if t, ok := be.(*tenant); ok {
		be = t.Backend
	}
	return be.(*fakeBackend)
}

func (e *fakeEngine) Start(tag uint64, f *frame.Frame) error {
	var want []byte
	if e.cfg.Stage > 0 {
		for i := range f.Spans {
			for j, id := range f.Spans[i].Tokens {
				want = row(want, int(e.cfg.Stage)-1, f.Spans[i].Start+int32(j), id)
			}
		}
	}
	if !slices.Equal(want, f.Rows) {
		return fmt.Errorf("%w: %d bytes of activations are not those of the stage before", engine.ErrBadFrame, len(f.Rows))
	}
	if _, err := e.log.Apply(f); err != nil {
		return err
	}
	e.started = append(e.started, f)
	e.be.submit(tag)
	return nil
}

func (e *fakeEngine) Pages() (used, capacity int) { return e.log.Pages() - e.log.Free(), e.log.Pages() }

func (e *fakeEngine) Finish(c compute.Completion) (engine.Output, error) {
	f := e.started[0]
	e.started = e.started[1:]
	if c.Err != nil {
		return engine.Output{}, fmt.Errorf("compute step %d: %w", f.Step, c.Err)
	}
	timings := append(f.Timings, frame.Timing{Stage: e.cfg.Stage})
	if e.cfg.Part.Head {
		return engine.Output{Result: e.sample(f, timings)}, nil
	}
	e.turn = (e.turn + 1) % len(e.memory)
	rows := e.memory[e.turn][:0]
	for i := range f.Spans {
		for j, id := range f.Spans[i].Tokens {
			rows = row(rows, int(e.cfg.Stage), f.Spans[i].Start+int32(j), id)
		}
	}
	e.memory[e.turn] = rows
	out := &frame.Frame{Epoch: f.Epoch, Pipeline: f.Pipeline, Step: f.Step, Ops: f.Ops, Spans: f.Spans, Timings: timings}
	if len(rows) > 0 {
		out.DType, out.Rows = frame.DTypeF32, rows
	}
	return engine.Output{Frame: out}, nil
}

func (e *fakeEngine) sample(f *frame.Frame, timings []frame.Timing) *frame.Result {
	for i := range f.Ops {
		switch op := &f.Ops[i]; {
		case op.Open != nil:
			e.open[op.Open.Slot], e.ids[op.Open.Slot] = op.Open, slices.Clone(op.Open.History)
		case op.Truncate != nil:
			e.ids[op.Truncate.Slot] = e.ids[op.Truncate.Slot][:op.Truncate.Len]
		case op.Close != nil:
			delete(e.open, op.Close.Slot)
		}
	}
	r := &frame.Result{Epoch: f.Epoch, Pipeline: f.Pipeline, Step: f.Step, Timings: timings}
	for i := range f.Spans {
		sp := &f.Spans[i]
		e.ids[sp.Slot] = append(e.ids[sp.Slot], sp.Tokens...)
		if sp.Output != frame.OutputSample {
			continue
		}
		r.Sampled = append(r.Sampled, e.sampleSpan(sp))
	}
	return r
}

// sampleSpan samples after a span's ids, and after its guesses as long as they
// hold.
func (e *fakeEngine) sampleSpan(sp *frame.Span) frame.Sampled {
	o, ids := e.open[sp.Slot], e.ids[sp.Slot]
	at := len(ids) - int(sp.Drafted)
	out := frame.Sampled{Slot: sp.Slot, Attempt: sp.Attempt, Position: int32(at)}
	for ; ; at++ {
		id := next(o.Sampling.Seed, ids[:at])
		out.IDs = append(out.IDs, id)
		switch {
		case id == stopID:
			out.Finish = frame.FinishStop
		case at+1-int(o.AnswerStart) >= int(o.Sampling.MaxTokens):
			out.Finish = frame.FinishLength
		}
		if out.Finish != frame.FinishNone || at == len(ids) || ids[at] != id {
			return out
		}
	}
}

func (e *fakeEngine) Close() error { return nil }

// fakeModel is a model of fakeLayers layers with one tensor each.
func fakeModel(name string) (*Model, error) {
	if name != "fake" {
		return nil, fmt.Errorf("no such model: %q", name)
	}
	return &Model{
		Arch: model.Arch{Tensors: func(_ model.Spec, p model.Part) (names []string) {
			for l := p.First; l < p.End; l++ {
				names = append(names, fmt.Sprint("layer ", l))
			}
			return names
		}},
		Spec:   model.Spec{Layers: fakeLayers, Hidden: fakeHidden, Vocab: fakeVocab, Context: fakeContext},
		Source: fakeSource{},
		Digest: [32]byte{1, 2, 3},
		File:   [32]byte{1, 2, 3},
		Bytes:  func(p model.Part) uint64 { return uint64(p.End-p.First) * 100 },
		Close:  func() error { return nil },
	}, nil
}

type fakeSource struct{ model.Source }

func (fakeSource) Tensor(name string) (compute.Matrix, bool) {
	return compute.Matrix{Name: name, Data: make([]byte, 100)}, true
}
