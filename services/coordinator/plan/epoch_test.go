package plan

import (
	"testing"
	"time"
)

// epochs returns the epochs of the plans that actions install.
func epochs(actions []Action) (out []uint64) {
	for _, a := range actions {
		if i, ok := a.(Install); ok {
			out = append(out, i.Plan.Epoch)
		}
	}
	return out
}

// TestFirstEpochIsSkippedTo: a coordinator that starts again leaves out epochs, once,
// so that it does not give one that it gave before to another plan.
func TestFirstEpochIsSkippedTo(t *testing.T) {
	m := New(Config{Coordinator: 3, Skip: 1000, Place: onePipelineEach})
	m.Step(Tick{time.Unix(1000, 0)})
	m.Step(Joined{Node: Node{ID: "a"}, Epoch: 5<<8 | 3})
	m.Step(Joined{Node: Node{ID: "b"}})
	first := epochs(m.Step(Tick{time.Unix(1001, 0)}))
	if len(first) != 1 || first[0] != 1006<<8|3 {
		t.Fatalf("plans of epochs %#x, want one of %#x", first, 1006<<8|3)
	}
	m.Step(Joined{Node: Node{ID: "a"}}) // it has started again
	if next := epochs(m.Step(Tick{time.Unix(1002, 0)})); len(next) != 1 || next[0] != 1007<<8|3 {
		t.Errorf("then plans of epochs %#x, want one of %#x", next, 1007<<8|3)
	}
}

// TestOutrun: a node that has seen a newer plan than the one in force gets it under
// an epoch that it accepts; the pipelines of it stay what they are.
func TestOutrun(t *testing.T) {
	s := newScene(t, 3, "a", "b")
	before := *s.Plan()
	if got := epochs(s.Step(Joined{Node: Node{ID: "late"}, Epoch: before.Epoch})); len(got) > 0 {
		t.Errorf("a node that has seen this plan leads to plans %#x", got)
	}
	got := epochs(s.Step(Joined{Node: Node{ID: "other"}, Epoch: before.Epoch + 900}))
	if len(got) != 1 || got[0] <= before.Epoch+900 {
		t.Fatalf("plans of epochs %#x, want one above %#x", got, before.Epoch+900)
	}
	if p := s.Plan(); len(p.Pipelines) != len(before.Pipelines) || p.Pipelines[0] != before.Pipelines[0] {
		t.Errorf("the pipelines are %v, before %v", p.Pipelines, before.Pipelines)
	}
	if s.Phase() != Ready {
		t.Errorf("it is %v", s.Phase())
	}
}
