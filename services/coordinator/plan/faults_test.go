package plan

import (
	"fmt"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/pkg/model"
)

// onePipelineEach places one pipeline of two stages per node beside node "a",
// which all of them share, and holds the second half in reserve on "r".
func onePipelineEach(f Facts) (Placement, error) {
	var out Placement
	at := func(n Node, part model.Part) Stage { return Stage{Node: n.ID, Address: n.Address, Part: part} }
	front, back := model.Part{End: 1}, model.Part{First: 1, End: 2}
	var shared *Node
	for i, n := range f.Nodes {
		if n.ID == "a" {
			shared = &f.Nodes[i]
		}
	}
	for _, n := range f.Nodes {
		switch {
		case n.ID == "r":
			out.Spares = append(out.Spares, at(n, back))
		case n.ID != "a" && shared != nil && len(f.Kept) == 0:
			out.Pipelines = append(out.Pipelines, &Pipeline{Stages: []Stage{at(*shared, front), at(n, back)}, Slots: 1, Pages: 1})
		}
	}
	if len(out.Pipelines)+len(f.Kept) == 0 {
		return out, errNone{}
	}
	return out, nil
}

// scene is a machine with pipelines that are ready, and its clock.
type scene struct {
	*Machine
	now time.Time
}

func (s *scene) tick(d time.Duration) []Action {
	s.now = s.now.Add(d)
	return s.Step(Tick{s.now})
}

// load has every stage of the plan loaded.
func (s *scene) load() {
	for k, p := range s.pipes {
		for i := range p.Stages {
			s.Step(Loaded{Pipeline: k, Stage: i})
		}
	}
}

func newScene(t *testing.T, losses int, nodes ...string) *scene {
	t.Helper()
	s := &scene{New(Config{Wishes: Wishes{MinShards: len(nodes), Settle: time.Second, Steady: time.Hour, Losses: losses}, Place: onePipelineEach}), time.Unix(1000, 0)}
	s.tick(0)
	for _, n := range nodes {
		s.Step(Joined{Node: Node{ID: n, Address: n + ":1"}})
	}
	s.tick(time.Second)
	s.load()
	if s.Phase() != Ready {
		t.Fatalf("it is %v: %s", s.Phase(), s.Reason())
	}
	return s
}

// TestFaultsAtOnceAreOne: two pipelines that fail at a node at the same time are
// one fault, for which no node is left out. A second one later is.
func TestFaultsAtOnceAreOne(t *testing.T) {
	s := newScene(t, 3, "a", "b", "c")
	for i, want := range []bool{false, true} {
		if len(s.pipes) != 2 {
			t.Fatalf("%d pipelines, want 2", len(s.pipes))
		}
		for _, p := range s.sorted() {
			s.Step(Faulted{Pipeline: p.Key, Stage: 0, Reason: "no route"})
		}
		s.tick(newsDelay)
		if aside := s.Aside("a") != ""; aside != want {
			t.Errorf("after %d faults node a is left out: %v, want %v", i+1, aside, want)
		}
		s.load()
	}
}

// TestDeathIsCountedOnce: a node whose loss ends a pipeline, and was awaited by
// another that had failed, died once.
func TestDeathIsCountedOnce(t *testing.T) {
	s := newScene(t, 2, "a", "b", "c")
	s.Step(Faulted{Pipeline: s.sorted()[0].Key, Stage: 0, Reason: "no answer"})
	s.Step(Lost{Node: "a", Reason: "killed"})
	if n := len(s.health.of("a").losses); n != 1 {
		t.Errorf("%d deaths were counted, want 1", n)
	}
	if why := s.Aside("a"); why != "" {
		t.Errorf("node a is left out: %s", why)
	}
}

// TestReserveOfAReturnedNode: a reserve's node that has started again elsewhere
// is reached where it is now.
func TestReserveOfAReturnedNode(t *testing.T) {
	s := newScene(t, 3, "a", "b", "r")
	s.Step(Joined{Node: Node{ID: "r", Address: "r:2"}})
	var plan *Plan
	for _, a := range s.Step(Lost{Node: "b", Reason: "killed"}) {
		if install, ok := a.(Install); ok {
			plan = install.Plan
		}
	}
	if plan == nil || len(plan.Pipelines) != 1 {
		t.Fatalf("plan %+v, want one pipeline", plan)
	}
	got := fmt.Sprint(plan.Pipelines[0].Stages[0].Address, " ", plan.Pipelines[0].Stages[1].Address)
	if got != "a:1 r:2" {
		t.Errorf("the stages are at %s, want a:1 r:2", got)
	}
}

// TestSparesAreUsedWhenNeeded: when a node is lost and the model does not fit
// beside the spares that were wished for, they take part.
func TestSparesAreUsedWhenNeeded(t *testing.T) {
	asked := []int{}
	place := func(f Facts) (Placement, error) {
		asked = append(asked, f.Wishes.Spares)
		if len(f.Nodes)-f.Wishes.Spares < 2 {
			return Placement{}, errNone{}
		}
		at := func(i int, p model.Part) Stage { return Stage{Node: f.Nodes[i].ID, Part: p} }
		stages := []Stage{at(0, model.Part{End: 1}), at(1, model.Part{First: 1, End: 2})}
		return Placement{Pipelines: []*Pipeline{{Stages: stages, Slots: 1, Pages: 1}}}, nil
	}
	s := &scene{New(Config{Wishes: Wishes{MinShards: 2, Spares: 1, Settle: time.Second, Steady: time.Hour, Losses: 3}, Place: place}), time.Unix(1000, 0)}
	s.tick(0)
	for _, n := range []string{"a", "b"} {
		s.Step(Joined{Node: Node{ID: n}})
	}
	s.tick(time.Second)
	if s.Phase() != Waiting {
		t.Fatalf("two nodes, one of them to be kept: %v", s.Phase())
	}
	s.Step(Joined{Node: Node{ID: "c"}})
	s.tick(time.Second)
	s.load()
	s.Step(Lost{Node: "a", Reason: "killed"})
	if s.Phase() == Waiting {
		t.Errorf("a node is lost and the spare is left idle: %s; spares asked for %v", s.Reason(), asked)
	}
}

// TestSparesAreUsedForADrain: and when a node is to be empty.
func TestSparesAreUsedForADrain(t *testing.T) {
	place := func(f Facts) (Placement, error) {
		if len(f.Nodes)-f.Wishes.Spares < 2 {
			return Placement{}, errNone{}
		}
		stages := []Stage{{Node: f.Nodes[0].ID, Part: model.Part{End: 1}}, {Node: f.Nodes[1].ID, Part: model.Part{First: 1, End: 2}}}
		return Placement{Pipelines: []*Pipeline{{Stages: stages, Slots: 1, Pages: 1}}}, nil
	}
	s := &scene{New(Config{Wishes: Wishes{MinShards: 3, Spares: 1, Settle: time.Second, Steady: time.Hour, Losses: 3}, Place: place}), time.Unix(1000, 0)}
	s.tick(0)
	for _, n := range []string{"a", "b", "c"} {
		s.Step(Joined{Node: Node{ID: n}})
	}
	s.tick(time.Second)
	s.load()
	s.Step(Drain{Node: "a"})
	s.load()
	for k, p := range s.pipes {
		if p.retired {
			s.Step(Emptied{Pipeline: k})
		}
	}
	if why := s.Aside("a"); len(s.pipes) != 1 || s.draining() || s.Phase() != Ready {
		t.Errorf("the node that is drained holds a stage still, and the spare none: %s, %v", why, s.pipes)
	}
}
