package modeltest

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
)

// recorded is a golden recorded from outside runtimes on a real model: one that
// quantises its activations to 8 bits, and a framework's float32.
type recorded struct {
	Prompts []struct {
		Tokens  []int32   `json:"tokens"`
		Greedy  []int32   `json:"greedy_ids"`
		Margins []float64 `json:"greedy_margins"`
		TopIDs  []int32   `json:"top10_ids"`
		Exact   []float64 `json:"torch_f32_top10_logits_at_same_ids"`
	} `json:"prompts"`
}

// Bounds of agreement on a real model.
const (
	realReferenceMax = 1e-2 // reference mode against float32, top logits
	decidedMargin    = 0.8  // above it, 8-bit activations must not flip a choice
)

// SmolLM2 checks the first larger model, where `make model` has put it, against
// its golden. It skips without the file.
func SmolLM2(t *testing.T) {
	path := filepath.Join(golden.Root(), ".cache", "models", "smollm2.gguf")
	if _, err := os.Stat(path); err != nil {
		t.Skip("run `make model` to fetch the model")
	}
	b, err := os.ReadFile(filepath.Join(golden.Root(), "testdata", "smollm2", "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g recorded
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	m := open(t, path)
	reference := pipeline(t, m, setup{cpu: cpu.Config{Reference: true}, stages: 1, rows: 256, slots: 1})
	fast := pipeline(t, m, setup{cpu: cpu.Config{}, stages: 1, rows: 256, slots: 1})
	forced, flips := 0, 0
	for i, p := range g.Prompts {
		exact := logitsOf(t, reference, 0, p.Tokens, len(p.Tokens))
		worst := 0.0
		for j, id := range p.TopIDs {
			worst = math.Max(worst, math.Abs(float64(exact[id])-p.Exact[j]))
		}
		t.Logf("prompt %d of %d ids: reference mode within %.2g of float32", i, len(p.Tokens), worst)
		if worst > realReferenceMax {
			t.Errorf("prompt %d: reference mode differs by %g from float32, bound %g", i, worst, realReferenceMax)
		}
		closeSlot(t, reference, 0)
		n := forcedDecoding(t, fast, i, p.Tokens, p.Greedy, p.Margins)
		forced, flips = forced+len(p.Greedy), flips+n
		closeSlot(t, fast, 0)
	}
	t.Logf("fast mode: %d of %d choices differ from the golden, none with a margin above %v", flips, forced, decidedMargin)
}

// forcedDecoding feeds the golden's greedy ids one by one, compares each choice,
// and returns how many differ.
func forcedDecoding(t *testing.T, l *engine.Local, prompt int, ids, greedy []int32, margins []float64) (flips int) {
	logits := logitsOf(t, l, 0, ids, len(ids))
	for n, want := range greedy {
		if got := argmax(logits); got != want {
			flips++
			t.Logf("prompt %d: choice %d is %d, golden %d, margin %.3f", prompt, n, got, want, margins[n])
			if margins[n] > decidedMargin {
				t.Errorf("prompt %d: choice %d flipped at a margin of %.3f", prompt, n, margins[n])
			}
		}
		logits = step(t, l, nil, frame.Span{Attempt: 1, Start: int32(len(ids) + n), Tokens: []int32{want}, Output: frame.OutputLogits})
	}
	return flips
}
