package library

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// TestFootprintIsWhatTheBackendHolds: what a stage is said to take is what the
// CPU backend says that it holds once the stage has loaded and computed, within
// the 5 % that architecture law 6 allows; weights and caches to the byte, of every
// kind of layer.
func TestFootprintIsWhatTheBackendHolds(t *testing.T) {
	names := []string{"tiny", "tiny-int4"}
	if path := filepath.Join(golden.Root(), ".cache", "models", "smollm2.gguf"); exists(path) { // make model
		names = append(names, path)
	}
	for _, family := range []string{"gemma2", "mixtral", "phi3", "qwen2", "qwen3_moe"} {
		names = append(names, filepath.Join(golden.Dir(t), "models", family, "model-f16.gguf"))
	}
	for _, name := range names {
		m, err := Library{}.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		n := m.Spec.Layers
		for _, p := range []model.Part{model.Whole(m.Spec), {First: 0, End: n / 2, Embed: true}, {First: n / 2, End: n, Head: true}, {First: 1, End: n - 1}} {
			checkFootprint(t, m, p, compute.KVClass{})
		}
		for _, class := range []compute.KVClass{{Bits: 16}, {Bits: 8, Group: 32}, {Bits: 3, Group: 32, Recent: 64}, {Bits: 2, Group: 32, Recent: 128, Upper: 4, Far: 512}} {
			if m.Spec.CheckKV(class) == nil {
				checkFootprint(t, m, model.Whole(m.Spec), class)
			}
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func checkFootprint(t *testing.T, m *Model, p model.Part, class compute.KVClass) {
	t.Helper()
	const pages, rows = 40, 256
	f, err := m.Footprint(class)
	if err != nil {
		t.Fatal(err)
	}
	be, err := cpu.Open(cpu.Config{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer be.Close()
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: p, Pages: pages, Slots: 4, Rows: rows, Context: min(m.Spec.Context, 512), KV: class,
	})
	if err != nil {
		t.Fatal(err)
	}
	computeRows(t, be, st, m, p, rows)
	want, pools := compute.Memory{Buffers: rows * f.Row}, class.Pools(4, rows, pages)
	for i := p.First; i < p.End; i++ {
		want.Weights += f.Layers[i]
		want.Caches += pages*f.KVPage + uint64(pools.Recent)*f.KVRecent + uint64(pools.Upper)*f.KVUpper
	}
	if p.Embed {
		want.Weights += f.Embed
	}
	if p.Head {
		want.Weights += f.Head
		want.Buffers += rows * f.Logits
	}
	if p.Embed && p.Head {
		want.Weights -= f.Tied
	}
	got := be.Used()
	if got.Weights != want.Weights || got.Caches != want.Caches {
		t.Errorf("%s %v, KV of %s: weights and caches of %+v, the backend holds %+v", m.Name, p, class, want, got)
	}
	const small = 4 << 20 // of smaller models the backend's own room is a large part
	if off := math.Abs(float64(want.Total())/float64(got.Total()) - 1); off > 0.05 && got.Total() > small {
		t.Errorf("%s %v, KV of %s: said to take %+v, the backend holds %+v: %.1f %% off", m.Name, p, class, want, got, 100*off)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
}

// computeRows has a stage compute a full step, so that the backend holds what it
// needs for one.
func computeRows(t *testing.T, be compute.Backend, st *engine.Stage, m *Model, p model.Part, rows int) {
	t.Helper()
	f := &frame.Frame{
		Epoch: 1, Step: 1,
		Ops:   []frame.Op{{Open: &frame.Open{Attempt: 1, Sampling: sample.Spec{MaxTokens: 1}}}},
		Spans: []frame.Span{{Slot: 0, Attempt: 1, Tokens: make([]int32, rows), Output: frame.OutputSample}},
	}
	if !p.Embed {
		f.DType, f.Rows = frame.DTypeF32, make([]byte, 4*rows*m.Spec.Hidden)
	}
	if err := st.Start(1, f); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Finish(<-be.Completions()); err != nil {
		t.Fatal(err)
	}
}
