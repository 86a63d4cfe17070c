package modeltest

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model/modeltest/window"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// prompt is one prompt of a golden file.
type prompt struct {
	IDs        []int32       `json:"ids"`
	LastLogits golden.Tensor `json:"last_logits"`
	Greedy     []int32       `json:"greedy"`
	Gaps       []float64     `json:"greedy_top2_gap"`
	ArgMax     []int32       `json:"argmax_per_position"`
}

// Case is a model file with its golden.
type Case struct {
	Name   string
	Model  string // path of the model file
	Golden string // relative to the folder of the reference data
}

// Cases are the model files of the reference data with these names.
func Cases(tb testing.TB, names ...string) []Case {
	tb.Helper()
	var out []Case
	for _, name := range names {
		out = append(out, Case{name, filepath.Join(golden.Dir(tb), "models", name, "model-f16.gguf"), filepath.Join("models", name, "golden.json")})
	}
	return out
}

// Checkpoints are the folders of the reference data that hold weights in
// safetensors.
func Checkpoints(tb testing.TB) []Case {
	tb.Helper()
	var out []Case
	configs, err := filepath.Glob(filepath.Join(golden.Dir(tb), "models", "*", "config.json"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, path := range configs {
		dir := filepath.Dir(path)
		if files, err := filepath.Glob(filepath.Join(dir, "*.safetensors")); err != nil || len(files) == 0 {
			continue
		}
		name := filepath.Base(dir)
		out = append(out, Case{name, dir, filepath.Join("models", name, "golden.json")})
	}
	if len(out) < 10 {
		tb.Fatalf("%d folders with weights, want at least 10", len(out))
	}
	return out
}

// Quantised lists the quantised model files of the reference data.
func Quantised(tb testing.TB) []Case {
	tb.Helper()
	var out []Case
	quants, err := filepath.Glob(filepath.Join(golden.Dir(tb), "quant_models", "*.gguf"))
	if err != nil || len(quants) == 0 {
		tb.Fatalf("%d quantised model files, %v", len(quants), err)
	}
	for _, m := range quants {
		name := strings.TrimSuffix(filepath.Base(m), ".gguf")
		out = append(out, Case{name, m, filepath.Join("quant_models", name+".golden.json")})
	}
	return out
}

// Family checks an architecture: the goldens of its files, and that no split,
// chunking, batch or instruction set changes a bit.
func Family(t *testing.T, levels []quant.Level, cases ...Case) {
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			Goldens(t, c)
			t.Run("invariance", func(t *testing.T) { Invariance(t, c, levels) })
		})
	}
}

// Open opens the model of a case.
func (c Case) Open(t *testing.T) *library.Model {
	t.Helper()
	if _, err := os.Stat(c.Model); err != nil {
		t.Fatal(err)
	}
	m, err := library.Library{}.Open(c.Model)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if m.Source, err = window.Of(m.Source, filepath.Join(filepath.Dir(c.Model), "config.json")); err != nil {
		t.Fatal(err)
	}
	return m
}

// Bounds of agreement with the framework's f32 logits (README of the reference data).
const (
	referenceMax = 1e-4
	fastMax      = 0.3
	fastCosine   = 0.9995
)

// Goldens compares the model's logits and greedy ids with the framework's.
func Goldens(t *testing.T, c Case) {
	t.Run("reference", func(t *testing.T) {
		m := c.Open(t)
		l := pipeline(t, m, setup{cpu: cpu.Config{Reference: true, Threads: 2}, stages: 1, rows: 160, slots: 1})
		checkGolden(t, l, c, referenceMax, 1-1e-6)
	})
	t.Run("fast", func(t *testing.T) {
		m := c.Open(t)
		l := pipeline(t, m, setup{cpu: cpu.Config{Threads: 2}, stages: 1, rows: 160, slots: 1})
		checkGolden(t, l, c, fastMax, fastCosine)
	})
}

func checkGolden(t *testing.T, l *engine.Local, c Case, bound, cosine float64) {
	var g struct {
		Prompts []prompt `json:"prompts"`
	}
	golden.JSON(t, c.Golden, &g)
	if len(g.Prompts) == 0 {
		t.Fatal("the golden has no prompts")
	}
	for i, p := range g.Prompts {
		got := logitsOf(t, l, 0, p.IDs, len(p.IDs))
		d, cos := compare(got, p.LastLogits.Float32(t))
		t.Logf("prompt %d of %d ids: max difference %.2g, cosine %.7f", i, len(p.IDs), d, cos)
		if !(d <= bound) || !(cos > cosine) {
			t.Errorf("prompt %d: max difference %g (bound %g), cosine %v (bound %v)", i, d, bound, cos, cosine)
		}
		checkGreedy(t, l, i, p, got, bound)
		closeSlot(t, l, 0)
	}
}

// checkGreedy follows the golden's greedy ids until a gap is below twice the
// tolerance: from there on, others are legitimate.
func checkGreedy(t *testing.T, l *engine.Local, i int, p prompt, logits []float32, bound float64) {
	pos := len(p.IDs)
	for n, want := range p.Greedy {
		if p.Gaps[n] < 2*bound {
			return
		}
		if got := argmax(logits); got != want {
			t.Errorf("prompt %d: greedy id %d is %d, want %d (gap %g)", i, n, got, want, p.Gaps[n])
			return
		}
		logits = step(t, l, nil, frame.Span{Attempt: 1, Start: int32(pos), Tokens: []int32{want}, Output: frame.OutputLogits})
		pos++
	}
}

// compare returns the largest difference and the cosine of two vectors.
func compare(a, b []float32) (diff, cosine float64) {
	var ab, aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		diff = math.Max(diff, math.Abs(x-y))
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	if len(a) != len(b) {
		return math.Inf(1), 0
	}
	return diff, ab / math.Sqrt(aa*bb)
}
