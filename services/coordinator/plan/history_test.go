package plan

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// follower holds the actions of a machine to their rules.
type follower struct {
	t       *rapid.T
	last    uint64         // highest epoch anybody has seen
	state   map[Key]string // installed, started, retired
	current *Plan
}

func (f *follower) follow(a Action) {
	switch a := a.(type) {
	case Install:
		f.install(a.Plan)
	case Start:
		if s := f.state[a.Pipeline]; s != "installed" && s != "retired" {
			f.t.Fatalf("pipeline %v starts when it is %q", a.Pipeline, s)
		}
		f.state[a.Pipeline] = "started"
	case Retire:
		if s := f.state[a.Pipeline]; s != "started" {
			f.t.Fatalf("pipeline %v retires when it is %q", a.Pipeline, s)
		}
		f.state[a.Pipeline] = "retired"
	case Drop:
		if f.state[a.Pipeline] == "" {
			f.t.Fatalf("pipeline %v is dropped, which is not there", a.Pipeline)
		}
		delete(f.state, a.Pipeline)
	case Wait:
		if len(f.state) > 0 {
			f.t.Fatalf("nothing is said to run: %v", f.state)
		}
	}
}

// install checks a plan: its epoch is new, it holds exactly the pipelines that
// live, those it keeps are unchanged, and each covers the model.
func (f *follower) install(p *Plan) {
	if p.Epoch <= f.last || p.Epoch&0xff != 7 {
		f.t.Fatalf("epoch %d after %d", p.Epoch, f.last)
	}
	f.last = p.Epoch
	ids := map[uint32]bool{}
	for _, pl := range p.Pipelines {
		if ids[pl.ID] {
			f.t.Fatalf("two pipelines have number %d", pl.ID)
		}
		ids[pl.ID] = true
		switch {
		case pl.Epoch == p.Epoch:
			f.state[pl.Key] = "installed"
		case f.state[pl.Key] == "" || f.current == nil:
			f.t.Fatalf("pipeline %v comes back", pl.Key)
		case f.current.Find(pl.Key) != nil && f.current.Find(pl.Key) != pl:
			f.t.Fatalf("pipeline %v was changed", pl.Key)
		}
	}
	if len(p.Pipelines) != len(f.state) || len(p.Pipelines) == 0 {
		f.t.Fatalf("plan of %d pipelines, alive are %v", len(p.Pipelines), f.state)
	}
	f.current = p
}

// TestHistories: in any history of events epochs grow, a pipeline is installed
// once, started when it is loaded and dropped once; a plan holds those that live
// and no stage on a node that is not there; and what runs is left alone unless
// something of it is lost.
func TestHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := New(Config{Coordinator: 7, Place: drawPlacer(t), Model: drawModel(t), Wishes: Wishes{
			Sessions: 1, Slots: 1, Rows: 1, Settle: time.Millisecond, Steady: 2 * time.Millisecond,
			MinShards: rapid.IntRange(0, 3).Draw(t, "shards"), Spares: rapid.IntRange(0, 2).Draw(t, "spares"), Stages: rapid.IntRange(0, 3).Draw(t, "stages"),
		}})
		f := &follower{t: t, state: map[Key]string{}}
		now := time.UnixMilli(0)
		for range rapid.IntRange(1, 80).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 2, 300, 20_000}).Draw(t, "ms")) * time.Millisecond)
			for _, e := range []Event{Tick{now}, drawEvent(t, m)} {
				before := len(m.pipes)
				for _, a := range m.Step(e) {
					if _, ok := a.(Install); ok && f.current == nil && before == 0 && len(m.nodes) < m.cfg.Wishes.MinShards {
						t.Fatalf("the first plan is made of %d nodes, %d were to be awaited", len(m.nodes), m.cfg.Wishes.MinShards)
					}
					f.follow(a)
				}
				checkNodes(t, m)
			}
			f.last = max(f.last, m.Epoch())
		}
	})
}

// checkNodes: no pipeline counts on a node that is not there, and phases and
// reasons agree.
func checkNodes(t *rapid.T, m *Machine) {
	for _, p := range m.pipes {
		for _, node := range p.Nodes() {
			if _, here := m.nodes[node]; !here {
				t.Fatalf("pipeline %v has a stage on %s, which is gone", p.Key, node)
			}
		}
	}
	if (m.Phase() == Waiting) != (len(m.pipes) == 0) || (m.Phase() == Ready) != (m.Reason() == "") {
		t.Fatalf("phase %v, reason %q, plan %v", m.Phase(), m.Reason(), m.Plan())
	}
}

func drawEvent(t *rapid.T, m *Machine) Event {
	id := fmt.Sprint("n", rapid.IntRange(0, 3).Draw(t, "node"))
	stage := rapid.IntRange(0, 3).Draw(t, "stage")
	var key Key
	if pipes := m.sorted(); len(pipes) > 0 {
		key = pipes[rapid.IntRange(0, len(pipes)-1).Draw(t, "pipeline")].Key
	}
	switch rapid.IntRange(0, 10).Draw(t, "kind") {
	case 0, 1:
		return Joined{Node: Node{ID: id, Devices: []Device{{Memory: rapid.Uint64Range(0, 9000).Draw(t, "memory")}}}}
	case 2:
		return Lost{Node: id, Reason: "lost", Stopped: rapid.Bool().Draw(t, "stopped")}
	case 3, 4, 5:
		return Loaded{Pipeline: key, Stage: stage, Err: rapid.SampledFrom([]string{"", "", "", "", "no"}).Draw(t, "error"), NoMemory: rapid.Bool().Draw(t, "memory")}
	case 6:
		return Refused{id, m.Epoch() + rapid.Uint64Range(0, 600).Draw(t, "ahead"), "newer"}
	case 7:
		return Drain{Node: id, Undo: rapid.Bool().Draw(t, "undo")}
	case 8:
		return Emptied{key}
	case 9:
		return Learned{Node{ID: id, Devices: []Device{{Memory: rapid.Uint64Range(0, 9000).Draw(t, "memory")}}}}
	}
	return Faulted{key, stage, "fault"}
}
