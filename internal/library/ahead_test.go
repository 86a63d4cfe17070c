package library

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
)

// reads counts what is read of a source.
type reads struct {
	model.Source
	n atomic.Int64
}

func (r *reads) Tensor(name string) (compute.Matrix, bool) {
	r.n.Add(1)
	return r.Source.Tensor(name)
}

// TestAheadGivesEveryTensor: in whatever order tensors are asked for, of the part or
// not, each has the bytes of the model, and none of them is read twice.
func TestAheadGivesEveryTensor(t *testing.T) {
	m, err := Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	plain := m.Source
	counted := &reads{Source: plain}
	m.Source = counted
	all := m.Arch.Tensors(m.Spec, model.Whole(m.Spec))
	slices.Sort(all)
	all = slices.Compact(all)
	random := rand.New(rand.NewPCG(3, 5))
	for range 30 {
		a := m.Ahead(model.Part{First: 1, End: m.Spec.Layers, Head: true})
		counted.n.Store(0)
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, name := range all {
			got, ok := a.Tensor(name)
			want, _ := plain.Tensor(name)
			if !ok || !bytes.Equal(got.Data, want.Data) || got.Rows != want.Rows || got.Format.Name != want.Format.Name {
				t.Fatalf("%s is another tensor", name)
			}
		}
		if _, ok := a.Tensor("no.such"); ok {
			t.Error("a tensor that there is not")
		}
		a.Close()
		if n := counted.n.Load(); n > int64(len(all))+1 {
			t.Fatalf("%d tensors were read %d times", len(all), n-1)
		}
	}
}

// TestAheadEnds: one that nobody asks for anything ends, and reads no more than there
// is room for.
func TestAheadEnds(t *testing.T) {
	m, err := Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for range 20 {
		m.Ahead(model.Whole(m.Spec)).Close()
	}
}
