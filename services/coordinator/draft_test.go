package coordinator

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
)

// TestAddDraft: a draft model's bytes are planned where pipelines begin, and one with
// another tokenizer is refused by the first token that differs.
func TestAddDraft(t *testing.T) {
	_, m := embedded(t)
	small, err := library.Library{}.Open("tiny-int4")
	if err != nil {
		t.Fatal(err)
	}
	defer small.Close()
	before := m.Facts.EmbedBytes
	if err := m.AddDraft(small, nil, Default().Wishes); err != nil {
		t.Fatal(err)
	}
	if added := m.Facts.EmbedBytes - before; added < uint64(small.Size)/2 || added > 4*uint64(small.Size)+64<<20 {
		t.Errorf("a draft model of %d bytes adds %d", small.Size, added)
	}
	if p := m.Draft.proto(); p.GetModel().GetName() != "tiny-int4" || p.GetPages() == 0 || p.GetSessions() == 0 || len(p.GetModel().GetDigest()) != 32 {
		t.Errorf("the plan would say %v", p)
	}
	other, err := library.Library{}.Open(filepath.Join(golden.Dir(t), "models", "llama", "model-f16.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := m.AddDraft(other, nil, Default().Wishes); !errors.Is(err, ErrDraft) || !strings.Contains(err.Error(), "same family") {
		t.Errorf("a draft model of another tokenizer: %v", err)
	}
}
