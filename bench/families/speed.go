package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/internal/synthetic"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/sample"
)

const (
	promptIDs = 16
	decoded   = 48
	format    = "Q4_0"
)

// shapes are models of one size. Those of experts have networks of a quarter of
// the width, of which a row goes through four.
func shapes() []synthetic.Shape {
	base := synthetic.Shape{Layers: 6, Hidden: 1024, FF: 4096, Heads: 16, KVHeads: 4, Vocab: 16384, Context: 256}
	var out []synthetic.Shape
	for _, arch := range []string{"llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3"} {
		s := base
		s.Name, s.Arch = arch, arch
		out = append(out, s)
	}
	for _, names := range [][2]string{{"mixtral", "llama"}, {"qwen3moe", "qwen3moe"}} {
		s := base
		s.Name, s.Arch, s.FF, s.Experts, s.Used = names[0], names[1], base.FF/4, 8, 4
		out = append(out, s)
	}
	return out
}

// family is a loaded model.
type family struct {
	name    string
	local   *engine.Local
	adapter string  // that answers go through; empty is none
	active  float64 // bytes of weights that a token needs
	rates   []float64
}

// speeds measures how fast each model decodes, in turns, and compares the bytes
// that it goes through in a second with those of the first.
func speeds(ctx context.Context, runs int, about measure.Figure) (out []measure.Figure, err error) {
	be, err := cpu.Open(cpu.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	var families []*family
	for _, s := range shapes() {
		f, err := load(be, s)
		if err != nil {
			return nil, err
		}
		families = append(families, f)
	}
	for range runs + 1 { // the first warms up
		for _, f := range families {
			rate, err := f.decode(ctx)
			if err != nil {
				return nil, fmt.Errorf("decode %s: %w", f.name, err)
			}
			f.rates = append(f.rates, rate)
		}
	}
	first := measure.Median(families[0].rates[1:]) * families[0].active
	for _, f := range families {
		figure := about
		figure.Name, figure.Unit, figure.Runs = "decode_"+f.name, "tokens/s", runs
		figure.Value = measure.Median(f.rates[1:])
		figure.Baseline = first / f.active
		figure.Ratio = figure.Value / figure.Baseline
		out = append(out, figure)
	}
	return out, nil
}

// load makes a model on a device.
func load(be compute.Backend, s synthetic.Shape) (*family, error) {
	q, ok := formats.ByName(format)
	if !ok {
		return nil, fmt.Errorf("no weight format %s", format)
	}
	m, err := synthetic.New(s, q)
	if err != nil {
		return nil, err
	}
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: model.Whole(m.Spec), Pages: 4, Slots: 1, Rows: promptIDs, Context: s.Context,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", s.Name, err)
	}
	f := &family{name: s.Name, local: engine.NewLocal(st)}
	for _, name := range m.Arch.Tensors(m.Spec, model.Whole(m.Spec)) {
		t, ok := m.Source.Tensor(name)
		switch n := float64(len(t.Data)); {
		case !ok || name == "token_embd.weight" && !s.Tied: // a row is looked up
		case strings.Contains(name, "_exps"):
			f.active += n * float64(s.Used) / float64(s.Experts)
		default:
			f.active += n
		}
	}
	return f, nil
}

// decode returns the tokens of a second after the prompt.
func (f *family) decode(ctx context.Context) (float64, error) {
	open := &frame.Open{Attempt: 1, Adapter: f.adapter, Sampling: sample.Spec{MaxTokens: decoded, IgnoreEOS: true}}
	prompt := make([]int32, promptIDs)
	for i := range prompt {
		prompt[i] = int32(7 * i)
	}
	var start time.Time
	n := 0
	for _, err := range f.local.Generate(ctx, open, prompt) {
		if err != nil {
			return 0, err
		}
		if n == 0 {
			start = time.Now()
		}
		n++
	}
	return float64(n-1) / time.Since(start).Seconds(), nil
}
