package modeltest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// adapted is an adapter of testdata/adapters with what the framework says of it.
type adapted struct {
	name, folder string
	Model        string
	Prompts      []struct {
		prompt
		Merged golden.Tensor `json:"merged_logits"`
	}
}

func adaptedModels(t *testing.T) (out []adapted) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(golden.Root(), "testdata", "adapters", "*", "golden.json"))
	if err != nil || len(files) < 6 {
		t.Fatalf("%d adapters, %v", len(files), err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		a := adapted{folder: filepath.Dir(path), name: filepath.Base(filepath.Dir(path))}
		if err := json.Unmarshal(text, &a); err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

// bases are the files of the adapter's model: GGUF, and a folder where it has weights.
func (a adapted) bases(t *testing.T) map[string]string {
	folder := filepath.Join(golden.Dir(t), "models", a.Model)
	out := map[string]string{"GGUF": filepath.Join(folder, "model-f16.gguf")}
	if files, _ := filepath.Glob(filepath.Join(folder, "*.safetensors")); len(files) > 0 {
		out["folder"] = folder
	}
	return out
}

// open opens the adapter in a form it is stored in: "" is the folder.
func (a adapted) open(t *testing.T, m *library.Model, file string) model.Adapter {
	t.Helper()
	opened, err := library.OpenAdapter(a.name, filepath.Join(a.folder, file), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	return opened.Model(a.name)
}

// TestAdaptedGoldens: a model with an adapter gives the framework's logits, and those
// of the framework's merged model, for every form in which either is stored.
func TestAdaptedGoldens(t *testing.T) {
	for _, a := range adaptedModels(t) {
		for base, path := range a.bases(t) {
			for form, file := range map[string]string{"PEFT": "", "GGUF": "adapter.gguf"} {
				t.Run(fmt.Sprintf("%s/%s on %s", a.name, form, base), func(t *testing.T) {
					m := Case{Model: path}.Open(t)
					adapters := []model.Adapter{a.open(t, m, file)}
					reference := pipeline(t, m, setup{cpu: cpu.Config{Reference: true, Threads: 2}, stages: 1, rows: 160, slots: 1, adapters: adapters})
					fast := pipeline(t, m, setup{cpu: cpu.Config{Threads: 2}, stages: 1, rows: 160, slots: 1, adapters: adapters})
					for i, p := range a.Prompts {
						got := adaptedLogits(t, reference, a.name, 0, p.IDs, len(p.IDs))
						d, cosine := compare(got, p.LastLogits.Float32(t))
						merged, _ := compare(got, p.Merged.Float32(t))
						t.Logf("prompt of %d ids: max difference %.2g, from the merged model %.2g", len(p.IDs), d, merged)
						if !(d <= referenceMax) || !(merged <= referenceMax) || !(cosine > 1-1e-6) {
							t.Errorf("prompt %d: max difference %g, from the merged model %g (bound %g)", i, d, merged, referenceMax)
						}
						checkGreedy(t, reference, i, p.prompt, got, referenceMax)
						closeSlot(t, reference, 0)
						if d, cosine := compare(adaptedLogits(t, fast, a.name, 0, p.IDs, len(p.IDs)), p.LastLogits.Float32(t)); !(d <= fastMax) || !(cosine > fastCosine) {
							t.Errorf("prompt %d, fast: max difference %g, cosine %v", i, d, cosine)
						}
						closeSlot(t, fast, 0)
						plain, _ := compare(logitsOf(t, reference, 0, p.IDs, len(p.IDs)), p.LastLogits.Float32(t))
						if plain < 100*referenceMax {
							t.Errorf("prompt %d: without the adapter the logits differ by %g only", i, plain)
						}
						closeSlot(t, reference, 0)
					}
				})
			}
		}
	}
}

// TestAdaptedInvariance: the logits of a session with an adapter have the same bits for
// every split, chunk, instruction set and company, which has other adapters or none.
func TestAdaptedInvariance(t *testing.T) {
	for _, a := range adaptedModels(t) {
		if a.name == "llama-a" {
			continue // llama-b has matrices with and without a change
		}
		t.Run(a.name, func(t *testing.T) {
			m := Case{Model: a.bases(t)["GGUF"]}.Open(t)
			adapters := []model.Adapter{{ID: "other", Change: a.open(t, m, "").Change}, a.open(t, m, "")}
			ids := a.Prompts[len(a.Prompts)-1].IDs
			levels := p16.Levels()
			one := setup{cpu: cpu.Config{Threads: 1, Level: &levels[0]}, stages: 1, rows: 256, slots: 9, adapters: adapters}
			want := adaptedLogits(t, pipeline(t, m, one), a.name, 0, ids, len(ids))
			plain := logitsOf(t, pipeline(t, m, setup{cpu: one.cpu, stages: 1, rows: 256, slots: 9}), 0, ids, len(ids))
			for _, stages := range stageCounts(m) {
				for _, level := range levels {
					if level == quant.Portable && stages != 2 {
						continue // it is slow, and the first run was its own
					}
					s := one
					s.stages, s.cpu.Level, s.cpu.Threads = stages, &level, 1+stages%2
					name := fmt.Sprintf("%d stages on %v", stages, level)
					l := pipeline(t, m, s)
					for _, chunk := range []int{7, 64, len(ids)} {
						if level == quant.Portable && chunk == 64 {
							continue
						}
						sameBits(t, fmt.Sprintf("%s, chunks of %d", name, chunk), want, adaptedLogits(t, l, a.name, 0, ids, chunk))
						closeSlot(t, l, 0)
					}
					sameBits(t, name+", without the adapter", plain, logitsOf(t, l, 0, ids, len(ids)))
					closeSlot(t, l, 0)
					got := together(t, l, ids, "other", a.name, "", a.name, "other")
					sameBits(t, name+", in company", want, got[1])
					sameBits(t, name+", in company, once more", want, got[3])
					sameBits(t, name+", in company, without the adapter", plain, got[2])
				}
			}
		})
	}
}

// together prefills ids in several sessions at once, each with an adapter or none, but
// for the last id, which all decode in one step, and returns the logits of each.
func together(t *testing.T, l *engine.Local, ids []int32, adapters ...string) [][]float32 {
	t.Helper()
	var ops []frame.Op
	for slot, id := range adapters {
		ops = append(ops, frame.Op{Open: &frame.Open{Slot: frame.Slot(slot), Attempt: 1, Adapter: id}})
	}
	for at := 0; at < len(ids); {
		n := min(40, len(ids)-1-at)
		if n == 0 {
			n = 1
		}
		var spans []frame.Span
		for slot := range adapters {
			s := frame.Span{Slot: frame.Slot(slot), Attempt: 1, Start: int32(at), Tokens: ids[at : at+n]}
			if at+n == len(ids) {
				s.Output = frame.OutputLogits
			}
			spans = append(spans, s)
		}
		r, err := l.Step(ops, spans)
		if err != nil {
			t.Fatal(err)
		}
		ops = nil
		if at += n; at < len(ids) {
			continue
		}
		var out [][]float32
		for _, s := range r.Sampled {
			out = append(out, slices.Clone(s.Logits))
		}
		for slot := range adapters {
			closeSlot(t, l, frame.Slot(slot))
		}
		return out
	}
	t.Fatal("no ids")
	return nil
}

// TestAdapterOfScaleZero: an adapter that adds nothing leaves every bit as it is.
func TestAdapterOfScaleZero(t *testing.T) {
	for _, a := range adaptedModels(t) {
		m := Case{Model: a.bases(t)["GGUF"]}.Open(t)
		change := a.open(t, m, "").Change
		null := model.Adapter{ID: "null", Change: func(tensor string) (model.Change, bool, error) {
			c, ok, err := change(tensor)
			c.Scale = 0
			return c, ok, err
		}}
		l := pipeline(t, m, setup{cpu: cpu.Config{Threads: 2}, stages: 1, rows: 160, slots: 2, adapters: []model.Adapter{null}})
		ids := a.Prompts[2].IDs
		sameBits(t, a.name, logitsOf(t, l, 0, ids, len(ids)), adaptedLogits(t, l, "null", 1, ids, len(ids)))
	}
}

// TestUnknownAdapter: a session with an adapter that is not there is refused, instead
// of being answered without it.
func TestUnknownAdapter(t *testing.T) {
	a := adaptedModels(t)[0]
	m := Case{Model: a.bases(t)["GGUF"]}.Open(t)
	l := pipeline(t, m, setup{cpu: cpu.Config{Threads: 1}, stages: 1, rows: 8, slots: 1})
	_, err := l.Step([]frame.Op{{Open: &frame.Open{Attempt: 1, Adapter: "other"}}}, []frame.Span{{Attempt: 1, Tokens: []int32{1}}})
	if !errors.Is(err, engine.ErrBadFrame) {
		t.Errorf("error %v", err)
	}
}
