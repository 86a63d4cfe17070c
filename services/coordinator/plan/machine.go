package plan

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Config is what a machine starts from.
type Config struct {
	Model       Model
	Wishes      Wishes
	Coordinator uint8 // number of this coordinator: the low bits of its epochs
}

// retryFailed is how long a node that could not load its stage, or refused a
// plan, is left out, whether it stays connected or not.
const retryFailed = 10 * time.Second

// Phase says how far the cluster is.
type Phase uint8

// The phases, in order.
const (
	Waiting Phase = iota // for nodes or memory; Reason says for what
	Loading              // stages load their weights
	Ready                // sessions can run
)

// String names the phase as reports do.
func (p Phase) String() string { return [...]string{"waiting", "loading", "ready"}[p] }

// Event is something that happened.
type Event interface{ event() }

// The events.
type (
	// Joined says that a node's handshake succeeded, and which epoch it has seen.
	Joined struct {
		Node  Node
		Epoch uint64
	}
	// Lost says that a node is gone.
	Lost struct{ Node, Reason string }
	// Loaded says that a stage of a plan is ready, or with Err that it cannot be.
	Loaded struct {
		Epoch uint64
		Stage int
		Err   string
	}
	// Refused says that a node refused the lease or a plan and has seen Epoch.
	Refused struct {
		Node   string
		Epoch  uint64
		Reason string
	}
	// Faulted says that a pipeline cannot go on though its nodes may be there.
	Faulted struct {
		Epoch  uint64
		Stage  int
		Reason string
	}
	// Tick says what time it is.
	Tick struct{ Now time.Time }
)

func (Joined) event()  {}
func (Lost) event()    {}
func (Loaded) event()  {}
func (Refused) event() {}
func (Faulted) event() {}
func (Tick) event()    {}

// Action is something to do.
type Action interface{ action() }

// The actions.
type (
	// Install asks to send a plan to every node. The plan is not changed any more.
	Install struct{ Plan *Plan }
	// Start says that every stage of the plan is ready.
	Start struct{ Epoch uint64 }
	// Drop says that the plan of an epoch is over: its sessions are lost.
	Drop struct {
		Epoch  uint64
		Reason string // a sentence that names the node and the stage
	}
	// Wait says that there is no plan, and why.
	Wait struct{ Reason string }
)

func (Install) action() {}
func (Start) action()   {}
func (Drop) action()    {}
func (Wait) action()    {}

// Machine turns facts into plans. It belongs to one goroutine.
type Machine struct {
	cfg     Config
	nodes   map[string]Node
	failed  map[string]failure // nodes left out for now
	seen    uint64             // highest epoch that anybody has seen
	issued  uint64             // epoch of the last plan made here
	now     time.Time
	planAt  time.Time // when to plan next; zero is not
	forming bool      // wait for MinShards: true until the first plan of a set of nodes

	phase  Phase
	reason string
	plan   *Plan
	loaded []bool // by stage of plan
}

// failure is why a node is left out, and until when.
type failure struct {
	reason string
	until  time.Time
}

// New returns a machine that waits for nodes.
func New(cfg Config) *Machine {
	m := &Machine{cfg: cfg, nodes: map[string]Node{}, failed: map[string]failure{}, forming: true}
	m.reason = m.missing(0)
	return m
}

// Phase returns how far the cluster is.
func (m *Machine) Phase() Phase { return m.phase }

// Reason says in a sentence why the cluster is not ready; empty when it is.
func (m *Machine) Reason() string { return m.reason }

// Plan returns the plan that loads or is ready, or nil.
func (m *Machine) Plan() *Plan { return m.plan }

// Epoch returns the highest epoch that anybody has seen.
func (m *Machine) Epoch() uint64 { return m.seen }

// Step applies one event and returns what to do about it, in order.
func (m *Machine) Step(e Event) []Action {
	switch e := e.(type) {
	case Joined:
		return m.joined(e)
	case Lost:
		return m.lost(e)
	case Loaded:
		return m.stageLoaded(e)
	case Refused:
		return m.refused(e)
	case Faulted:
		if m.plan == nil || e.Epoch != m.plan.Epoch {
			return nil
		}
		actions := m.drop(fmt.Sprintf("%s failed: %s", m.stageName(e.Stage), e.Reason))
		m.planAt = m.now.Add(m.cfg.Wishes.Settle) // news of a lost node may be on its way
		return append(actions, m.wait("the pipeline failed and starts again: "+e.Reason)...)
	case Tick:
		m.now = e.Now
		return m.tick()
	}
	panic(fmt.Sprintf("plan: unknown event %T", e))
}

func (m *Machine) joined(e Joined) []Action {
	m.seen = max(m.seen, e.Epoch)
	var actions []Action
	if m.plan != nil && m.plan.OfNode(e.Node.ID) >= 0 { // it restarted
		actions = m.drop(fmt.Sprintf("node %s started again", e.Node.ID))
	}
	m.nodes[e.Node.ID] = e.Node
	if m.phase != Waiting { // a running plan is not disturbed
		return actions
	}
	m.planAt = m.now.Add(m.cfg.Wishes.Settle)
	if n := len(m.nodes); m.forming && n < m.cfg.Wishes.MinShards {
		return append(actions, m.wait(m.missing(n))...)
	}
	return append(actions, m.wait("shards are joining")...)
}

func (m *Machine) lost(e Lost) []Action {
	if _, ok := m.nodes[e.Node]; !ok {
		return nil
	}
	delete(m.nodes, e.Node)
	m.forming = m.forming || len(m.nodes) == 0
	if m.plan == nil {
		if m.forming && !m.planAt.IsZero() && len(m.nodes) > 0 {
			return nil // others may be joining still
		}
		return m.try()
	}
	stage := m.plan.OfNode(e.Node)
	if stage < 0 {
		return nil
	}
	actions := m.drop(fmt.Sprintf("%s was lost: %s", m.stageName(stage), e.Reason))
	return append(actions, m.try()...)
}

func (m *Machine) stageLoaded(e Loaded) []Action {
	if m.plan == nil || e.Epoch != m.plan.Epoch || e.Stage < 0 || e.Stage >= len(m.plan.Stages) {
		return nil
	}
	if e.Err != "" {
		reason := fmt.Sprintf("%s failed: %s", m.stageName(e.Stage), e.Err)
		m.failed[m.plan.Stages[e.Stage].Node] = failure{reason, m.now.Add(retryFailed)}
		return append(m.drop(reason), m.try()...)
	}
	m.loaded[e.Stage] = true
	if m.phase != Loading || slices.Contains(m.loaded, false) {
		return nil
	}
	m.phase, m.reason = Ready, ""
	return []Action{Start{m.plan.Epoch}}
}

func (m *Machine) refused(e Refused) []Action {
	m.seen = max(m.seen, e.Epoch)
	concerned := m.plan != nil && m.plan.OfNode(e.Node) >= 0
	if e.Epoch > m.issued {
		if !concerned {
			return nil
		}
		// This coordinator is new to the cluster: all nodes will refuse, and come
		// again. So the next plan forms like the first.
		actions := m.drop(fmt.Sprintf("node %s refused the plan: %s", e.Node, e.Reason))
		m.forming, m.planAt = true, m.now.Add(m.cfg.Wishes.Settle)
		return append(actions, m.wait("node "+e.Node+" has seen a newer plan: making another")...)
	}
	reason := fmt.Sprintf("node %s refused: %s", e.Node, e.Reason)
	m.failed[e.Node] = failure{reason, m.now.Add(retryFailed)}
	if !concerned {
		return nil
	}
	return append(m.drop(reason), m.try()...)
}

func (m *Machine) tick() []Action {
	again := false
	for id, f := range m.failed {
		if !m.now.Before(f.until) {
			delete(m.failed, id)
			again = again || m.phase == Waiting && m.planAt.IsZero()
		}
	}
	if again || !m.planAt.IsZero() && !m.now.Before(m.planAt) {
		return m.try()
	}
	return nil
}

// try makes a plan of the nodes that are there, or says why it cannot.
func (m *Machine) try() []Action {
	m.planAt = time.Time{}
	var nodes []Node
	for _, id := range slices.Sorted(maps.Keys(m.nodes)) {
		if _, ok := m.failed[id]; !ok {
			nodes = append(nodes, m.nodes[id])
		}
	}
	if n := len(m.nodes); n == 0 || m.forming && n < m.cfg.Wishes.MinShards {
		return m.wait(m.missing(n))
	}
	p, err := Split(m.cfg.Model, m.cfg.Wishes, nodes)
	if err != nil {
		return m.wait(m.withFailures(err.Error()))
	}
	m.forming = false
	m.seen = (m.seen>>8+1)<<8 | uint64(m.cfg.Coordinator)
	m.issued, p.Epoch = m.seen, m.seen
	m.plan, m.loaded = p, make([]bool, len(p.Stages))
	m.phase, m.reason = Loading, "the model is loading"
	return []Action{Install{p}}
}

// drop ends the plan in force.
func (m *Machine) drop(reason string) []Action {
	epoch := m.plan.Epoch
	m.plan, m.loaded, m.phase = nil, nil, Waiting
	return []Action{Drop{epoch, reason}}
}

// wait notes why there is no plan; it says so once.
func (m *Machine) wait(reason string) []Action {
	if m.reason == reason && m.phase == Waiting {
		return nil
	}
	m.phase, m.reason = Waiting, reason
	return []Action{Wait{reason}}
}

// missing says how many shards are awaited when n are there.
func (m *Machine) missing(n int) string {
	want := max(m.cfg.Wishes.MinShards, 1)
	if want-n == 1 {
		return fmt.Sprintf("needs 1 more shard: %d of %d are here", n, want)
	}
	return fmt.Sprintf("needs %d more shards: %d of %d are here", want-n, n, want)
}

// withFailures adds why nodes are left out.
func (m *Machine) withFailures(reason string) string {
	for _, id := range slices.Sorted(maps.Keys(m.failed)) {
		if _, here := m.nodes[id]; here {
			reason += "; " + m.failed[id].reason
		}
	}
	return reason
}

func (m *Machine) stageName(i int) string {
	if i < 0 || i >= len(m.plan.Stages) {
		return fmt.Sprintf("stage %d", i)
	}
	s := m.plan.Stages[i]
	return fmt.Sprintf("node %s (stage %d, layers %d to %d)", s.Node, i, s.Part.First, s.Part.End-1)
}
