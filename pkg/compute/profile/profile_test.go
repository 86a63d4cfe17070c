package profile

import (
	"testing"

	"github.com/shoal-llm/shoal/internal/synthetic"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// TestOps: a prefill and two tokens of a model are as many calls as it has
// layers, of matrices of its sizes, and nothing is timed while timing is off.
func TestOps(t *testing.T) {
	be, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer be.Close()
	b := Of(be)
	m, err := synthetic.Open("nano")
	if err != nil {
		t.Fatal(err)
	}
	st, err := engine.Open(b, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: model.Whole(m.Spec), Pages: 1, Slots: 1, Rows: 8, Context: 64,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := engine.NewLocal(st)
	defer p.Close()
	generate := func() {
		open := &frame.Open{Attempt: 1, Sampling: sample.Spec{MaxTokens: 3, IgnoreEOS: true}}
		for _, err := range p.Generate(t.Context(), open, []int32{1, 2, 3, 4}) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	generate()
	const rows = 4 + 1 + 1 // of three passes
	spec := m.Spec
	want := map[string]struct {
		calls int
		flops float64
	}{
		"NormLinear 256×256 128×256 128×256 ": {3 * spec.Layers, 2 * rows * 512 * 256 * 4},
		"RopeStore 256 and 128":               {3 * spec.Layers, 0},
		"Attend 4 heads, 2 of keys, of 64":    {3 * spec.Layers, (1 + 2 + 3 + 4 + 5 + 6) * 4 * 256 * 4},
		"LinearAdd 256×256":                   {3 * spec.Layers, 2 * rows * 256 * 256 * 4},
		"NormGateUp 512×256 512×256 ":         {3 * spec.Layers, 2 * rows * 1024 * 256 * 4},
		"LinearAdd 256×512":                   {3 * spec.Layers, 2 * rows * 256 * 512 * 4},
		"Head 512×256":                        {3, 2 * 3 * 512 * 256},
		"Pick 512":                            {3, 0},
		"Embed 512×256":                       {3, 0},
		"ClearPages ":                         {1, 0},
	}
	for _, op := range b.Ops() {
		name := op.Name + " " + op.Shape
		w, ok := want[name]
		if !ok || op.Calls != w.calls || op.Flops != w.flops {
			t.Errorf("%q: %d calls and %v operations, want %+v", name, op.Calls, op.Flops, w)
		}
		if head := 3.0 * 512 * 256 * 18 / 32; op.Name == "Head" && op.Bytes != head {
			t.Errorf("%q reads %v bytes, want %v", name, op.Bytes, head)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("not timed: %v", want)
	}
	b.Profile(false)
	generate()
	if ops := b.Ops(); len(ops) > 0 {
		t.Errorf("timed while off: %v", ops)
	}
}
