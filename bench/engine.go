package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// Sizes of our engine: rows of a step as llama.cpp's default, and the contexts
// of all sessions together.
const (
	maxRows    = 512
	maxContext = 704
	maxStreams = 16
)

// machine is one model on one number of threads, as a single stage without a
// network.
type machine struct {
	device   *cpu.Backend
	model    *library.Model
	pipeline *engine.Local
	attempt  uint32
	closed   []frame.Op // sessions that the next step closes
}

// openMachine loads a model, one of the folder models or an embedded one, onto
// threads workers.
func openMachine(models, name string, threads int) (*machine, error) {
	m, err := library.Library{Dir: models}.Open(name)
	if err != nil {
		return nil, err
	}
	device, err := cpu.Open(cpu.Config{Threads: threads})
	if err != nil {
		return nil, err
	}
	context := min(maxContext, m.Spec.Context)
	stage, err := engine.Open(device, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: model.Part{End: m.Spec.Layers, Embed: true, Head: true},
		Pages: (context/64 + 1) * maxStreams, Slots: maxStreams, Rows: maxRows, Context: context,
	})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	return &machine{device: device, model: m, pipeline: engine.NewLocal(stage)}, nil
}

func (m *machine) close() {
	m.pipeline.Close()
	_ = m.device.Close()
	_ = m.model.Close()
}

// weightBytes returns the bytes that a decoded token reads of the model file.
// An embedding that is not the head too counts though a token reads one row.
func (m *machine) weightBytes() int {
	return int(m.model.Bytes(model.Part{End: m.model.Spec.Layers, Embed: true, Head: true}))
}

// prefill computes a prompt of n tokens and one sampled token, and returns
// tokens a second.
func (m *machine) prefill(n int) (float64, error) {
	s := m.open(1)
	defer m.end(s)
	start := time.Now()
	err := s.prompt(n)
	return float64(n) / time.Since(start).Seconds(), err
}

// decode computes n tokens in each of streams sessions after a prompt of prompt
// tokens each, all streams in one step, and returns decoded tokens a second.
// Without a prompt the first step counts too, as in llama-bench.
func (m *machine) decode(streams, prompt, n int) (float64, error) {
	s := m.open(streams)
	defer m.end(s)
	if prompt > 0 {
		if err := s.prompt(prompt); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	for range n {
		if err := s.step(s.spans); err != nil {
			return 0, err
		}
	}
	return float64(n*streams) / time.Since(start).Seconds(), nil
}

// sessions are streams that decode together.
type sessions struct {
	m     *machine
	ops   []frame.Op
	spans []frame.Span // the next token of each
}

// open begins sessions in slots 0 to streams−1, greedy and without an end.
func (m *machine) open(streams int) *sessions {
	m.attempt++
	s := &sessions{m: m, ops: m.closed}
	m.closed = nil
	for i := range streams {
		slot := frame.Slot(i)
		s.ops = append(s.ops, frame.Op{Open: &frame.Open{
			Slot: slot, Attempt: m.attempt, Sampling: sample.Spec{IgnoreEOS: true},
		}})
		s.spans = append(s.spans, frame.Span{
			Slot: slot, Attempt: m.attempt, Tokens: []int32{token(m, i)}, Output: frame.OutputSample,
		})
	}
	return s
}

// end closes the sessions with the next step.
func (m *machine) end(s *sessions) {
	for i := range s.spans {
		m.closed = append(m.closed, frame.Op{Close: &frame.Close{Slot: s.spans[i].Slot}})
	}
}

// token returns any token id.
func token(m *machine, i int) int32 { return int32((i*7919 + 13) % m.model.Spec.Vocab) }

// prompt computes n tokens of every session, as many sessions in a step as fit.
func (s *sessions) prompt(n int) error {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = token(s.m, i)
	}
	for i := range s.spans {
		s.spans[i].Tokens = ids
	}
	fit := max(1, maxRows/n)
	for at := 0; at < len(s.spans); at += fit {
		if err := s.step(s.spans[at:min(at+fit, len(s.spans))]); err != nil {
			return err
		}
	}
	return nil
}

// step computes spans and makes each that of the sampled token.
func (s *sessions) step(spans []frame.Span) error {
	r, err := s.m.pipeline.Step(s.ops, spans)
	if err != nil {
		return err
	}
	s.ops = nil
	if len(r.Sampled) != len(spans) {
		return fmt.Errorf("%d answers of %d sessions", len(r.Sampled), len(spans))
	}
	for i := range spans {
		got := r.Sampled[i]
		if got.Err != "" || len(got.IDs) != 1 || got.Slot != spans[i].Slot {
			return fmt.Errorf("session %d at %d: %s", spans[i].Slot, spans[i].Start, got.Err)
		}
		spans[i].Start += int32(len(spans[i].Tokens))
		spans[i].Tokens = []int32{got.IDs[0]}
	}
	return nil
}

// fleet opens each machine once.
type fleet struct {
	dir  string // of model files
	open map[string]*machine
}

func (f *fleet) get(name string, threads int) (*machine, error) {
	key := fmt.Sprintf("%s on %d", name, threads)
	if m := f.open[key]; m != nil {
		return m, nil
	}
	m, err := openMachine(f.dir, name, threads)
	if err == nil {
		f.open[key] = m
	}
	return m, err
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name+".gguf") }

func (f *fleet) close() {
	for _, m := range f.open {
		m.close()
	}
}
