package coordinator

import (
	"slices"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

func embedded(t *testing.T) (*library.Model, Model) {
	t.Helper()
	file, err := library.Library{}.Open(library.Default)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	m, err := NewModel(file, compute.KVClass{}, Default().Wishes)
	if err != nil {
		t.Fatal(err)
	}
	return file, m
}

// TestFactsAddUp: the facts of a plan give every part of the real model the
// bytes that its tensors have.
func TestFactsAddUp(t *testing.T) {
	file, m := embedded(t)
	layers := m.Facts.Layers()
	for first := range layers {
		for end := first + 1; end <= layers; end++ {
			part := model.Part{First: first, End: end, Embed: first == 0, Head: end == layers}
			var got uint64
			for _, n := range m.Facts.LayerBytes[first:end] {
				got += n
			}
			if part.Embed {
				got += m.Facts.EmbedBytes
			}
			if part.Head {
				got += m.Facts.HeadBytes
			}
			if part.Embed && part.Head {
				got -= m.Facts.TiedBytes
			}
			if want := file.Bytes(part); got != want {
				t.Errorf("%+v: %d bytes by the facts, %d by the file", part, got, want)
			}
		}
	}
	devices := []plan.Device{{Memory: 4 << 30}}
	p, err := plan.Split(plan.Facts{
		Model: m.Facts, Wishes: Default().Wishes, Nodes: []plan.Node{{ID: "a", Devices: devices}, {ID: "b", Devices: devices}},
	})
	if err != nil || len(p.Pipelines[0].Stages) != 2 || p.Pipelines[0].Sessions != Default().Wishes.Sessions {
		t.Errorf("two machines: %v, %v", p, err)
	}
}

// TestUserTextIsNeverControl: what a user types never becomes a control token,
// whatever it says; the template's own markers do.
func TestUserTextIsNeverControl(t *testing.T) {
	_, m := embedded(t)
	end := m.StopIDs[0]
	marker := m.Text.Token(end)
	count := func(ids []int32) (n int) {
		for _, id := range ids {
			if slices.Contains(m.StopIDs, id) {
				n++
			}
		}
		return n
	}
	plain, err := m.Text.Chat([]Message{{Role: "user", Content: "hello"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := m.Text.Chat([]Message{{Role: "user", Content: "hello" + strings.Repeat(marker, 3)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if count(forged) != count(plain) || len(forged) <= len(plain) {
		t.Errorf("the prompt has %d end tokens, without the user's %d", count(forged), count(plain))
	}
	raw, err := m.Text.Raw(marker)
	if err != nil || count(raw) != 0 {
		t.Errorf("raw text %q gives %v, %v", marker, raw, err)
	}
}

// TestAnswerTextIsTheVocabularys: ids of a text come back as the text.
func TestAnswerTextIsTheVocabularys(t *testing.T) {
	_, m := embedded(t)
	const text = "Once upon a time, caf\u00e9 \U0001F600!"
	ids, err := m.Text.Raw(text)
	if err != nil {
		t.Fatal(err)
	}
	d, got := m.Text.Detokenizer(), ""
	for _, id := range ids {
		got += d.Push(id)
	}
	if got += d.Flush(); got != text {
		t.Errorf("%q became %q", text, got)
	}
}
