package plan

import (
	"testing"
	"time"
)

// A drained node that was the only one and starts again is not planned for; once
// the drain is undone it is.
func TestUndoPlansAgain(t *testing.T) {
	placer := func(f Facts) (Placement, error) {
		if len(f.Nodes) == 0 {
			return Placement{}, errNone{}
		}
		if len(f.Kept) > 0 {
			return Placement{}, nil
		}
		return Placement{Pipelines: []*Pipeline{{Stages: []Stage{{Node: f.Nodes[0].ID}}, Slots: 1, Pages: 1}}}, nil
	}
	m := New(Config{Wishes: Wishes{MinShards: 1, Settle: time.Second, Steady: time.Second}, Place: placer})
	now := time.Unix(1000, 0)
	tick := func(d time.Duration) []Action { now = now.Add(d); return m.Step(Tick{now}) }
	tick(0)
	m.Step(Joined{Node: Node{ID: "a"}})
	for range 3 {
		tick(time.Second)
	}
	for k := range m.pipes {
		m.Step(Loaded{Pipeline: k})
	}
	m.Step(Drain{Node: "a"})
	m.Step(Lost{Node: "a", Reason: "x"})
	m.Step(Joined{Node: Node{ID: "a"}})
	for range 5 {
		tick(time.Second)
	}
	if m.Phase() != Waiting {
		t.Fatalf("drained and started again: %v", m.Phase())
	}
	m.Step(Drain{Node: "a", Undo: true})
	for range 3600 {
		tick(time.Second)
	}
	if m.Phase() == Waiting {
		t.Errorf("an hour after the undo: %v, %s", m.Phase(), m.Reason())
	}
}

type errNone struct{}

func (errNone) Error() string { return "no node may be used" }
