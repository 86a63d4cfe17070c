package synthetic

import (
	"bytes"
	"math"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/model/archs"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// TestFormats: a model of every format that has a whole number of blocks in a row
// computes finite logits that differ.
func TestFormats(t *testing.T) {
	be, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer be.Close()
	for _, f := range formats.All() {
		t.Run(f.Name, func(t *testing.T) {
			m, err := Open("nano:" + f.Name)
			if err != nil {
				t.Fatal(err)
			}
			st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
				Epoch: 1, Part: model.Whole(m.Spec), Pages: 1, Slots: 1, Rows: 8, Context: 64,
			})
			if err != nil {
				t.Fatal(err)
			}
			p := engine.NewLocal(st)
			defer p.Close()
			open := &frame.Open{Attempt: 1, Sampling: sample.Spec{MaxTokens: 1}, AnswerStart: 3}
			r, err := p.Step([]frame.Op{{Open: open}}, []frame.Span{{Attempt: 1, Tokens: []int32{1, 2, 3}, Output: frame.OutputLogits}})
			if err != nil {
				t.Fatal(err)
			}
			least, most := math.Inf(1), math.Inf(-1)
			for _, v := range r.Sampled[0].Logits {
				least, most = math.Min(least, float64(v)), math.Max(most, float64(v))
			}
			if !(most-least > 0.5 && most-least < 100) {
				t.Errorf("logits between %v and %v", least, most)
			}
		})
	}
}

// TestSame: two models of one name are the same bytes; tensors of one model and
// models of two names are not.
func TestSame(t *testing.T) {
	a, b, other := open(t, "nano"), open(t, "synthetic-nano:Q4_0"), open(t, "nano:Q8_0")
	if a.Digest != b.Digest || a.Name != b.Name || a.Digest == other.Digest {
		t.Errorf("digests %x, %x and %x", a.Digest, b.Digest, other.Digest)
	}
	var total uint64
	for _, name := range a.Arch.Tensors(a.Spec, model.Whole(a.Spec)) {
		x, _ := a.Source.Tensor(name)
		y, _ := b.Source.Tensor(name)
		if len(x.Data) == 0 || !bytes.Equal(x.Data, y.Data) {
			t.Errorf("%s differs", name)
		}
		total += uint64(len(x.Data))
	}
	if got := a.Bytes(model.Whole(a.Spec)); got != total {
		t.Errorf("the model has %d bytes, says %d", total, got)
	}
	q, _ := a.Source.Tensor("blk.0.attn_q.weight")
	r, _ := a.Source.Tensor("blk.1.attn_q.weight")
	if bytes.Equal(q.Data, r.Data) {
		t.Error("two layers have the same weights")
	}
}

func open(t *testing.T, name string) *Model {
	t.Helper()
	m, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", "9b", "8b:Q9", "nano:"} {
		if m, err := Open(name); err == nil {
			t.Errorf("%q is %s", name, m.Name)
		}
	}
}

// TestArchitectures: every architecture can be made up, with experts where it has
// them.
func TestArchitectures(t *testing.T) {
	f, _ := formats.ByName("Q8_0")
	for _, a := range archs.All() {
		s := Shape{Name: "small", Arch: a.Name, Layers: 6, Hidden: 64, FF: 64, Heads: 2, KVHeads: 1, Vocab: 64, Context: 64}
		if a.Name == "qwen3moe" {
			s.Experts, s.Used = 4, 2
		}
		m, err := New(s, f)
		if err != nil || m.Spec.Arch != a.Name || m.Spec.Experts != s.Experts || m.Bytes(model.Whole(m.Spec)) == 0 {
			t.Errorf("%s: %v", a.Name, err)
		}
	}
}
