package coordinator

import (
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/pki"
)

// TestAdaptersAreModels: a request that names an adapter goes through it, is told so,
// and shares no cached pages with the model's own; a name that is not there is refused.
func TestAdaptersAreModels(t *testing.T) {
	m := toyModel()
	m.Adapters = []Adapter{{Name: "poet", ID: "poet@1", Manifest: []byte{1}}, {Name: "clerk", ID: "clerk@2", Manifest: []byte{2}}}
	r := newRigOf(t, m, pki.NewSecret(), nil, nil, "a", "b")
	info := r.report("ready", ready)
	if got := info.Models[0].GetAdapters(); len(got) != 2 || got[0] != "poet" {
		t.Errorf("adapters %v", got)
	}
	for name, id := range map[string]string{"poet": "poet@1", "": "", m.Name: "", "clerk": "clerk@2"} {
		ask := raw("hello$", 20)
		ask.Model = name
		a := r.relay.ask(100, ask)
		if a.finish(); a.terminal.GetComplete() == nil {
			t.Fatalf("%q: %v", name, a.terminal)
		}
		want := m.Name
		if id != "" {
			want = name
		}
		if a.accepted.GetModel() != want {
			t.Errorf("a request for %q is told that it is of %q", name, a.accepted.GetModel())
		}
		ready, err := m.prepare(ask, 64)
		if err != nil || ready.adapter != id {
			t.Errorf("a request for %q goes through %q, want %q: %v", name, ready.adapter, id, err)
		}
	}
	ask := raw("hello$", 20)
	ask.Model = "nobody"
	a := r.relay.ask(100, ask)
	if a.finish(); a.terminal.GetError().GetCode() != codeNotFound || !strings.Contains(a.terminal.GetError().GetMessage(), `"clerk"`) {
		t.Errorf("an adapter that is not there: %v", a.terminal)
	}
	long := strings.Repeat("x", 64)
	own, poet := raw(long, 4), raw(long, 4)
	poet.Model = "poet"
	one, err1 := m.prepare(own, 128)
	two, err2 := m.prepare(poet, 128)
	if err1 != nil || err2 != nil || len(one.chain) == 0 || one.chain[0] == two.chain[0] {
		t.Errorf("pages of the model and of its adapter have one name: %v %v", err1, err2)
	}
	if p := (m.proto()); len(p.Adapters) != 2 || p.Adapters[1].Id != "clerk@2" {
		t.Errorf("the plan has %v", p.Adapters)
	}
}
