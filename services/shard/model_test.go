package shard

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	fixtures "github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
)

// TestRecipeOfAPlan: a model is rounded by the plan's recipe, is of the same file and
// has another identity on a device; what is only timed is not rounded; a recipe that
// this node does not know is refused.
func TestRecipeOfAPlan(t *testing.T) {
	file, err := library.Library{}.Open(filepath.Join(fixtures.Dir(t), "models", "llama", "model-f16.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	m := NewModel(file)
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	if same, err := m.round(""); same != m || err != nil {
		t.Errorf("without a recipe: %v", err)
	}
	if _, err := m.round("int4,attention=int1"); !errors.Is(err, library.ErrPrecision) {
		t.Errorf("int1: %v", err)
	}
	if _, err := (&Model{}).round("int4"); err == nil {
		t.Error("a model that cannot be rounded is taken as it is")
	}
	r, err := m.round("int4,attention=int3")
	if err != nil {
		t.Fatal(err)
	}
	if r.File != m.File || r.Digest == m.Digest || m.Digest != m.File {
		t.Errorf("digests %x and %x of files %x and %x", r.Digest[:4], m.Digest[:4], r.File[:4], m.File[:4])
	}
	const name = "blk.0.attn_q.weight"
	timed, _ := r.measured().Tensor(name)
	real, _ := r.Source.Tensor(name)
	if timed.Format.Precision != "int3" || real.Format.Precision != "int3" || len(timed.Data) != len(real.Data) || bytes.Equal(timed.Data, real.Data) {
		t.Errorf("timed %s of %d bytes, loaded %s of %d", timed.Format.Name, len(timed.Data), real.Format.Name, len(real.Data))
	}
}
