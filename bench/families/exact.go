package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/model/modeltest/window"
)

// goldens is a golden file, as far as it is compared.
type goldens struct {
	Prompts []struct {
		IDs    []int32 `json:"ids"`
		Logits struct {
			B64 string `json:"b64"`
		} `json:"last_logits"`
	} `json:"prompts"`
}

// differences compares the logits of each model with its golden.
func differences(dir string, about measure.Figure) ([]measure.Figure, error) {
	files, err := filepath.Glob(filepath.Join(dir, "models", "*", "model-f16.gguf"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find models in %s: %d found, %w", dir, len(files), err)
	}
	var out []measure.Figure
	for _, path := range files {
		f := about
		f.Name = "logit_difference_" + filepath.Base(filepath.Dir(path))
		f.Unit, f.Runs = "worst of all prompts", 1
		if f.Value, err = difference(path); err != nil {
			return nil, fmt.Errorf("compare %s: %w", path, err)
		}
		out = append(out, f)
	}
	return out, nil
}

// difference returns the largest difference of a logit after a prompt.
func difference(path string) (worst float64, err error) {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(path), "golden.json"))
	if err != nil {
		return 0, err
	}
	var g goldens
	if err := json.Unmarshal(b, &g); err != nil {
		return 0, err
	}
	m, err := library.Library{}.Open(path)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	if m.Source, err = window.Of(m.Source, filepath.Join(filepath.Dir(path), "config.json")); err != nil {
		return 0, err
	}
	be, err := cpu.Open(cpu.Config{Reference: true})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: model.Whole(m.Spec), Pages: 4, Slots: 1, Rows: 256, Context: min(256, m.Spec.Context),
	})
	if err != nil {
		return 0, err
	}
	l := engine.NewLocal(st)
	for _, p := range g.Prompts {
		r, err := l.Step([]frame.Op{{Open: &frame.Open{Attempt: 1}}}, []frame.Span{{Attempt: 1, Tokens: p.IDs, Output: frame.OutputLogits}})
		if err != nil {
			return 0, err
		}
		off, err := apart(r.Sampled[0].Logits, p.Logits.B64)
		if err != nil {
			return 0, err
		}
		worst = max(worst, off)
		if _, err := l.Step([]frame.Op{{Close: &frame.Close{}}}, nil); err != nil {
			return 0, err
		}
	}
	return worst, nil
}

// apart returns the largest difference from little-endian float32 in base64.
func apart(logits []float32, b64 string) (worst float64, err error) {
	raw, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(raw) != 4*len(logits) {
		return 0, fmt.Errorf("%d bytes for %d logits, %w", len(raw), len(logits), err)
	}
	for i, v := range logits {
		want := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		worst = max(worst, math.Abs(float64(v)-float64(want)))
	}
	return worst, nil
}
