package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/internal/synthetic"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// adapterRank is the rank of the adapter whose cost is measured.
const adapterRank = 16

// adapterFigures compares adapted models with the framework's goldens, and how fast a
// model decodes through an adapter of all its matrices with how fast it does without.
func adapterFigures(ctx context.Context, fixtures, dir string, runs int, about measure.Figure) ([]measure.Figure, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "golden.json"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find adapters in %s: %d found, %w", dir, len(files), err)
	}
	var out []measure.Figure
	for _, path := range files {
		f := about
		f.Name, f.Unit, f.Runs = "logit_difference_adapter_"+filepath.Base(filepath.Dir(path)), "worst of all prompts", 1
		if f.Value, err = adapterDifference(fixtures, path); err != nil {
			return nil, fmt.Errorf("compare %s: %w", path, err)
		}
		out = append(out, f)
	}
	cost, err := adapterCost(ctx, runs, about)
	return append(out, cost...), err
}

func adapterDifference(fixtures, path string) (worst float64, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var g struct {
		Model string
		goldens
	}
	if err := json.Unmarshal(text, &g); err != nil {
		return 0, err
	}
	m, err := library.Library{}.Open(filepath.Join(fixtures, "models", g.Model, "model-f16.gguf"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	a, err := library.OpenAdapter("a", filepath.Dir(path), m)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	be, err := cpu.Open(cpu.Config{Reference: true})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: model.Whole(m.Spec), Pages: 8, Slots: 1, Rows: 256, Context: min(512, m.Spec.Context), Adapters: []model.Adapter{a.Model("a")},
	})
	if err != nil {
		return 0, err
	}
	local := engine.NewLocal(st)
	for _, p := range g.Prompts {
		r, err := local.Step([]frame.Op{{Open: &frame.Open{Attempt: 1, Adapter: "a"}}}, []frame.Span{{Attempt: 1, Tokens: p.IDs, Output: frame.OutputLogits}})
		if err != nil {
			return 0, err
		}
		off, err := apart(r.Sampled[0].Logits, p.Logits.B64)
		if err != nil {
			return 0, err
		}
		worst = max(worst, off)
		if _, err := local.Step([]frame.Op{{Close: &frame.Close{}}}, nil); err != nil {
			return 0, err
		}
	}
	return worst, nil
}

// adapterCost decodes by turns with an adapter and without.
func adapterCost(ctx context.Context, runs int, about measure.Figure) (out []measure.Figure, err error) {
	be, err := cpu.Open(cpu.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	q, _ := formats.ByName(format)
	m, err := synthetic.New(shapes()[0], q)
	if err != nil {
		return nil, err
	}
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: model.Whole(m.Spec), Pages: 4, Slots: 1, Rows: promptIDs, Context: 256,
		Adapters: []model.Adapter{{ID: "a", Change: madeUp(m.Source, adapterRank)}},
	})
	if err != nil {
		return nil, err
	}
	plain := &family{name: "llama", local: engine.NewLocal(st)}
	adapted := &family{name: "adapter", local: plain.local, adapter: "a"}
	for range runs + 1 { // the first warms up
		for _, f := range []*family{plain, adapted} {
			rate, err := f.decode(ctx)
			if err != nil {
				return nil, err
			}
			f.rates = append(f.rates, rate)
		}
	}
	f := about
	f.Name, f.Unit, f.Runs = fmt.Sprintf("decode_adapter_rank_%d", adapterRank), "tokens/s", runs
	f.Value, f.Baseline = measure.Median(adapted.rates[1:]), measure.Median(plain.rates[1:])
	f.Ratio = f.Value / f.Baseline
	return []measure.Figure{f}, nil
}

// madeUp is an adapter of random factors for all matrices of layers.
func madeUp(src model.Source, rank int) func(string) (model.Change, bool, error) {
	rng := rand.New(rand.NewPCG(3, 4))
	plain, _ := formats.ByGGML(0)
	factor := func(rows, cols int) compute.Matrix {
		m := compute.Matrix{Format: plain, Rows: rows, Cols: cols}
		for range rows * cols {
			m.Data = binary.LittleEndian.AppendUint32(m.Data, math.Float32bits(float32(rng.NormFloat64()/math.Sqrt(float64(cols)))))
		}
		return m
	}
	return func(tensor string) (model.Change, bool, error) {
		w, ok := src.Tensor(tensor)
		if !ok || !strings.HasPrefix(tensor, "blk.") {
			return model.Change{}, false, nil
		}
		return model.Change{A: factor(rank, w.Cols), B: factor(w.Rows, rank), Scale: 0.1}, true, nil
	}
}
