package library

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/template"
)

// tinyGolden is what the framework said of the embedded model's f16 weights.
type tinyGolden struct {
	ID        string    `json:"id"`
	Prompt    string    `json:"prompt"`
	PromptIDs []int32   `json:"prompt_ids"`
	GreedyIDs []int32   `json:"greedy_ids"`
	TopIDs    []int32   `json:"top_ids"`
	TopLogits []float64 `json:"top_logits"`
}

func tinyGoldens(t *testing.T) []tinyGolden {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(golden.Root(), "testdata", "tiny", "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g []tinyGolden
	if err := json.Unmarshal(b, &g); err != nil || len(g) == 0 {
		t.Fatalf("%d goldens, %v", len(g), err)
	}
	return g
}

func openTiny(t *testing.T, name string) *Model {
	t.Helper()
	m, err := Library{}.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// TestEmbeddedModelTokenises holds prompt ids against the framework's, for text
// as it stands and through the chat template.
func TestEmbeddedModelTokenises(t *testing.T) {
	m := openTiny(t, Default)
	vocab, err := m.Vocab()
	if err != nil {
		t.Fatal(err)
	}
	chat, err := m.Template()
	if err != nil || chat == nil {
		t.Fatalf("template %v, %v", chat, err)
	}
	rendered := 0
	for _, g := range tinyGoldens(t) {
		if got := vocab.EncodeWithSpecial(g.Prompt); !slices.Equal(got, g.PromptIDs) {
			t.Errorf("%s: ids %v, want %v", g.ID, got, g.PromptIDs)
		}
		text, ok := strings.CutPrefix(g.Prompt, "<|im_start|>user\n")
		question, tail, _ := strings.Cut(text, "<|im_end|>")
		if !ok || tail != "\n<|im_start|>assistant\n" {
			continue // raw text, or several turns
		}
		rendered++
		segments, err := chat.Render(template.Input{
			Messages: []template.Message{{Role: "user", Content: question}}, AddGenerationPrompt: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := vocab.EncodeSegments(segments); !slices.Equal(got, g.PromptIDs) {
			t.Errorf("%s: the template gives %v, want %v", g.ID, got, g.PromptIDs)
		}
	}
	if rendered < 10 {
		t.Errorf("only %d prompts went through the template", rendered)
	}
}

// TestEmbeddedModelAnswers compares logits of both embedded files with the
// framework's on the unquantised weights. The bounds are the differences that the
// model card reports for another runtime, plus what rounding activations to 8
// bits may move.
func TestEmbeddedModelAnswers(t *testing.T) {
	for name, bound := range map[string]float64{"tiny": 0.67 + 0.3, "tiny-int4": 4.08 + 0.3} {
		t.Run(name, func(t *testing.T) {
			l := localPipeline(t, openTiny(t, name))
			first, prompts := 0, tinyGoldens(t)
			for _, g := range prompts {
				open := frame.Op{Open: &frame.Open{Attempt: 1}}
				span := frame.Span{Attempt: 1, Tokens: g.PromptIDs, Output: frame.OutputLogits}
				r, err := l.Step([]frame.Op{open}, []frame.Span{span})
				if err != nil {
					t.Fatal(err)
				}
				logits := r.Sampled[0].Logits
				for i, id := range g.TopIDs {
					if d := math.Abs(float64(logits[id]) - g.TopLogits[i]); d > bound {
						t.Errorf("%s: logit of %d differs by %g, bound %g", g.ID, id, d, bound)
					}
				}
				if slices.Max(logits) == logits[g.GreedyIDs[0]] {
					first++
				}
				if _, err := l.Step([]frame.Op{{Close: &frame.Close{}}}, nil); err != nil {
					t.Fatal(err)
				}
			}
			if first < len(prompts)*8/10 {
				t.Errorf("the first greedy id agrees for %d of %d prompts", first, len(prompts))
			}
		})
	}
}

func localPipeline(t *testing.T, m *Model) *engine.Local {
	t.Helper()
	be, err := cpu.Open(cpu.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { be.Close() })
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: model.Whole(m.Spec), Pages: 16, Slots: 1, Rows: 256, Context: 1024,
	})
	if err != nil {
		t.Fatal(err)
	}
	return engine.NewLocal(st)
}

func TestModelDescribesItself(t *testing.T) {
	m := openTiny(t, Default)
	if m.Precision != "int8" || m.Spec.Layers != 8 || m.Spec.Vocab != 4096 || !m.Spec.TiedHead || m.TensorTypes["Q8_0"] == 0 {
		t.Errorf("%+v %+v", m, m.Spec)
	}
	if d := m.Defaults(); d.TopK != 40 || math.Abs(float64(d.Temperature)-0.7) > 1e-6 {
		t.Errorf("recommended sampling %+v", d)
	}
	whole := m.Bytes(model.Whole(m.Spec))
	split := m.Bytes(model.Part{First: 0, End: 4, Embed: true}) + m.Bytes(model.Part{First: 4, End: 8, Head: true})
	table, _ := m.Source.Tensor("token_embd.weight")
	if split-whole != uint64(len(table.Data)) {
		t.Errorf("two halves have %d bytes, the whole %d: want a tied table of %d twice", split, whole, len(table.Data))
	}
	if other := openTiny(t, "tiny-int4"); other.Digest == m.Digest || other.Precision != "int4" {
		t.Errorf("int4 model: precision %s, same digest %v", other.Precision, other.Digest == m.Digest)
	}
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	b, err := os.ReadFile(filepath.Join(golden.Root(), "models", "tiny", "tiny-q4_0.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "mine.gguf")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mine", "mine.gguf", path} {
		m, err := Library{Dir: dir}.Open(name)
		if err != nil || m.Name != "mine" || m.Path != path {
			t.Errorf("%s: %v, %v", name, m, err)
			continue
		}
		m.Close()
	}
	if m, err := (Library{Paths: map[string]string{"other": path}}).Open("other"); err != nil || m.Name != "other" || m.Path != path {
		t.Errorf("a file with a name of its own: %v, %v", m, err)
	} else {
		m.Close()
	}
	for _, name := range []string{"", "none", "../" + filepath.Base(dir), dir} {
		if _, err := (Library{Dir: dir}).Open(name); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: error %v", name, err)
		}
	}
}
