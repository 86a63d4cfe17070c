package engine

import (
	"errors"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/model"
)

// lacking is a device without some operations.
type lacking struct {
	compute.Backend
	lacks compute.Features
}

func (l lacking) Info() compute.Info {
	info := l.Backend.Info()
	info.Lacks = l.lacks
	return info
}

// TestOpenNeedsOperations: a model is refused before it is loaded when the device
// lacks operations that it needs, and only then.
func TestOpenNeedsOperations(t *testing.T) {
	be, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer be.Close()
	for name, needs := range map[string]compute.Features{
		"tiny": 0, golden.Root() + "/testdata/fixtures/models/qwen2/model-f16.gguf": compute.FeatureBias,
	} {
		m, err := library.Library{}.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if m.Spec.Needs != needs {
			t.Errorf("%s needs %q, want %q", name, m.Spec.Needs, needs)
		}
		cfg := Config{Epoch: 1, Part: model.Whole(m.Spec), Pages: 1, Slots: 1, Rows: 1, Context: 64}
		_, err = Open(lacking{be, compute.AllFeatures}, m.Arch, m.Source, m.Spec, cfg)
		if refused := errors.Is(err, compute.ErrUnsupported); refused != (needs != 0) || refused && !strings.Contains(err.Error(), needs.String()) {
			t.Errorf("%s on a device that lacks all: %v", name, err)
		}
		st, err := Open(lacking{be, compute.AllFeatures &^ needs}, m.Arch, m.Source, m.Spec, cfg)
		if err != nil {
			t.Fatalf("%s on a device that has what it needs: %v", name, err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestAdaptersNeedOperations: a device without low-rank products refuses a model that
// has adapters, by name, instead of answering without them.
func TestAdaptersNeedOperations(t *testing.T) {
	be, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer be.Close()
	m, err := library.Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	cfg := Config{
		Epoch: 1, Part: model.Whole(m.Spec), Pages: 1, Slots: 1, Rows: 1, Context: 64,
		Adapters: []model.Adapter{{ID: "a", Change: func(string) (model.Change, bool, error) { return model.Change{}, false, nil }}},
	}
	_, err = Open(lacking{be, compute.FeatureLowRank}, m.Arch, m.Source, m.Spec, cfg)
	if !errors.Is(err, compute.ErrUnsupported) || !strings.Contains(err.Error(), "low-rank adapters") {
		t.Errorf("error %v", err)
	}
}
