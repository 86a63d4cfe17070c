package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Config is what a machine starts from.
type Config struct {
	Model       Model
	Wishes      Wishes
	Coordinator uint8  // number of this coordinator: the low bits of its epochs
	Skip        uint64 // epochs left out before the first; drawn, so that no plan has that of one made before a restart
	Place       Placer // nil is Split
}

// newsDelay is how long a pipeline that failed waits for the news which node is
// lost, before it is planned anew without it.
const newsDelay = 200 * time.Millisecond

// Phase says how far the cluster is.
type Phase uint8

// The phases, in order.
const (
	Waiting Phase = iota // for nodes or memory; Reason says for what
	Loading              // the first pipeline loads its weights
	Ready                // sessions can run
)

// String names the phase as reports do.
func (p Phase) String() string { return [...]string{"waiting", "loading", "ready"}[p] }

// Event is something that happened.
type Event interface{ event() }

// The events.
type (
	// Joined says that a node's handshake succeeded, and which epoch it has seen.
	// A node that is there already has started again.
	Joined struct {
		Node  Node
		Epoch uint64
	}
	// Learned says that facts about a node have changed, measured ones for example.
	Learned struct{ Node Node }
	// Lost says that a node is gone. One that was stopped is not blamed for it.
	Lost struct {
		Node, Reason string
		Stopped      bool
	}
	// Drain says that a node shall hold nothing, or with Undo that it may again.
	Drain struct {
		Node string
		Undo bool
	}
	// Loaded says that a stage is ready, or with Err that it cannot be: with
	// NoMemory because the device has no room for it beside what it holds.
	Loaded struct {
		Pipeline Key
		Stage    int
		Err      string
		NoMemory bool
	}
	// Refused says that a node refused the lease or a plan and has seen Epoch.
	Refused struct {
		Node   string
		Epoch  uint64
		Reason string
	}
	// Faulted says that a pipeline cannot go on though its nodes may be there.
	Faulted struct {
		Pipeline Key
		Stage    int
		Reason   string
	}
	// Emptied says that no session is left on a pipeline that was to be retired.
	Emptied struct{ Pipeline Key }
	// Tick says what time it is.
	Tick struct{ Now time.Time }
)

func (Joined) event()  {}
func (Learned) event() {}
func (Lost) event()    {}
func (Drain) event()   {}
func (Loaded) event()  {}
func (Refused) event() {}
func (Faulted) event() {}
func (Emptied) event() {}
func (Tick) event()    {}

// Action is something to do.
type Action interface{ action() }

// The actions.
type (
	// Install asks to send a plan to every node. The plan is not changed any more.
	Install struct{ Plan *Plan }
	// Start says that every stage of a pipeline is ready: sessions may be placed.
	Start struct{ Pipeline Key }
	// Retire says that sessions shall leave a pipeline for others. It serves those
	// it has until Emptied is heard.
	Retire struct {
		Pipeline Key
		Reason   string
	}
	// Drop says that a pipeline is over: its sessions have to begin elsewhere.
	Drop struct {
		Pipeline Key
		Reason   string // a sentence that names the node and the stage
		Died     string // the node whose loss it was; empty when no node died
		Meant    bool   // somebody wanted it so: no session can be the cause
	}
	// Stay says that something better than what runs did not fit in memory beside
	// it, and when it is tried again unless nodes change. It is said once for a set of
	// nodes.
	Stay struct {
		Reason string
		Retry  time.Duration
	}
	// Wait says that there is no pipeline, and why.
	Wait struct{ Reason string }
)

func (Install) action() {}
func (Start) action()   {}
func (Retire) action()  {}
func (Drop) action()    {}
func (Stay) action()    {}
func (Wait) action()    {}

// Machine turns facts into plans. It belongs to one goroutine.
type Machine struct {
	cfg     Config
	nodes   map[string]Node
	health  health
	drained map[string]string // nodes to be left empty, and why they cannot be
	seen    uint64            // highest epoch that anybody has seen
	issued  uint64            // epoch of the last plan made here
	now     time.Time
	planAt  time.Time // when to plan for lost pipelines; zero is not
	moveAt  time.Time // when to look for something better than what runs; zero is not
	moved   time.Time // when running pipelines were last replaced
	unfit   int       // times in a row that what was to replace them did not fit beside them
	forming bool      // wait for MinShards: true until the first plan of a set of nodes

	reason    string // why nothing is ready
	plan      *Plan  // nil when there is no pipeline
	pipes     map[Key]*pipe
	reserve   []Stage    // of the last plan
	placed    string     // why the last placement is what it is
	explained string     // why the plan is what it is
	lostPipes []lostPipe // to be replaced
	suspects  []string   // where pipelines failed, while news of a lost node may come
}

// pipe is how far a pipeline of the plan is.
type pipe struct {
	*Pipeline
	loaded  []bool // by stage
	ready   bool
	leaving bool // it goes once all that are not leaving are ready
	retired bool // its sessions have been told to go
}

// New returns a machine that waits for nodes.
func New(cfg Config) *Machine {
	if cfg.Place == nil {
		cfg.Place = Split
	}
	m := &Machine{
		cfg: cfg, nodes: map[string]Node{}, health: newHealth(cfg.Wishes.Losses), drained: map[string]string{},
		pipes: map[Key]*pipe{}, forming: true,
	}
	m.reason = m.missing(0)
	return m
}

// Phase returns how far the cluster is.
func (m *Machine) Phase() Phase {
	phase := Waiting
	for _, p := range m.pipes {
		if p.ready {
			return Ready
		}
		phase = Loading
	}
	return phase
}

// Reason says in a sentence why the cluster is not ready; empty when it is.
func (m *Machine) Reason() string {
	switch m.Phase() {
	case Ready:
		return ""
	case Loading:
		return "the model is loading"
	}
	return m.reason
}

// Plan returns what the shards hold, or nil when that is nothing.
func (m *Machine) Plan() *Plan { return m.plan }

// Explanation says in sentences why the plan is what it is.
func (m *Machine) Explanation() string { return m.explained }

// Epoch returns the highest epoch that anybody has seen.
func (m *Machine) Epoch() uint64 { return m.seen }

// Aside says why a node is left out of plans; empty when it is not.
func (m *Machine) Aside(node string) string {
	why, drained := m.drained[node]
	switch {
	case drained && why == "":
		return m.drainText(node)
	case drained:
		return why
	}
	return m.health.aside(node)
}

// Step applies one event and returns what to do about it, in order.
func (m *Machine) Step(e Event) []Action {
	switch e := e.(type) {
	case Joined:
		return m.joined(e)
	case Learned:
		if _, ok := m.nodes[e.Node.ID]; ok {
			m.nodes[e.Node.ID] = e.Node
			m.consider()
		}
		return nil
	case Lost:
		return m.lost(e)
	case Drain:
		return m.drain(e)
	case Loaded:
		return m.stageLoaded(e)
	case Refused:
		return m.refused(e)
	case Faulted:
		return m.faulted(e)
	case Emptied:
		return m.emptied(e)
	case Tick:
		m.now = e.Now
		return m.tick()
	}
	panic(fmt.Sprintf("plan: unknown event %T", e))
}

func (m *Machine) joined(e Joined) []Action {
	m.seen = max(m.seen, e.Epoch)
	_, again := m.nodes[e.Node.ID]
	m.unfit = 0
	m.nodes[e.Node.ID] = e.Node
	var actions []Action
	if again {
		actions = m.dropOf(e.Node.ID, func(p *pipe) Drop {
			return Drop{Pipeline: p.Key, Reason: fmt.Sprintf("node %s started again", e.Node.ID), Died: e.Node.ID}
		})
		if len(actions) > 0 {
			m.health.died(e.Node.ID, m.now)
		}
	}
	if m.Phase() != Waiting {
		m.consider()
		if len(actions) > 0 {
			return append(actions, m.repair()...)
		}
		return m.outrun(e.Epoch)
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
	m.unfit = 0
	awaited := len(m.suspects) > 0 // this is the news
	m.suspects = nil
	m.forming = m.forming || len(m.nodes) == 0
	actions := m.dropOf(e.Node, func(p *pipe) Drop {
		if e.Stopped {
			return Drop{Pipeline: p.Key, Reason: fmt.Sprintf("%s was stopped: %s", p.name(p.OfNode(e.Node)), e.Reason), Meant: true}
		}
		return Drop{Pipeline: p.Key, Reason: fmt.Sprintf("%s was lost: %s", p.name(p.OfNode(e.Node)), e.Reason), Died: e.Node}
	})
	if !e.Stopped && (awaited || len(actions) > 0) {
		m.health.died(e.Node, m.now)
	}
	switch {
	case len(actions) > 0 || !m.planAt.IsZero() && !m.forming:
		return append(actions, m.repair()...)
	case len(m.pipes) == 0 && !(m.forming && !m.planAt.IsZero() && len(m.nodes) > 0): // else others may be joining still
		return m.repair()
	case m.spares(e.Node):
		m.consider()
	}
	return nil
}

// spares reports whether a node holds a reserve.
func (m *Machine) spares(node string) bool {
	return m.plan != nil && slices.ContainsFunc(m.plan.Spares, func(s Stage) bool { return s.Node == node })
}

func (m *Machine) stageLoaded(e Loaded) []Action {
	p := m.pipes[e.Pipeline]
	if p == nil || e.Stage < 0 || e.Stage >= len(p.Stages) {
		return nil
	}
	if e.Err != "" {
		reason := fmt.Sprintf("%s failed: %s", p.name(e.Stage), e.Err)
		var actions []Action
		if e.NoMemory && !p.leaving && m.anyLeaving() { // the node is as good as before
			actions = m.unfitted(reason)
		} else {
			m.health.refuse(p.Stages[e.Stage].Node, reason, m.now)
		}
		actions = append(actions, m.drop(p, Drop{Pipeline: p.Key, Reason: reason})...)
		return append(actions, m.repair()...)
	}
	p.loaded[e.Stage] = true
	if p.ready || slices.Contains(p.loaded, false) {
		return nil
	}
	p.ready = true
	return append([]Action{Start{p.Key}}, m.retire()...)
}

func (m *Machine) refused(e Refused) []Action {
	m.seen = max(m.seen, e.Epoch)
	if e.Epoch > m.issued {
		// This coordinator is new to the cluster: all nodes will refuse, and come
		// again. So the next plan forms like the first.
		actions := m.dropOf(e.Node, func(p *pipe) Drop {
			return Drop{Pipeline: p.Key, Reason: fmt.Sprintf("node %s refused the plan: %s", e.Node, e.Reason)}
		})
		if len(actions) == 0 {
			return nil
		}
		if len(m.pipes) > 0 {
			return append(actions, m.repair()...)
		}
		m.forming, m.planAt = true, m.now.Add(m.cfg.Wishes.Settle)
		return append(actions, m.wait("node "+e.Node+" has seen a newer plan: making another")...)
	}
	reason := fmt.Sprintf("node %s refused: %s", e.Node, e.Reason)
	m.health.refuse(e.Node, reason, m.now)
	actions := m.dropOf(e.Node, func(p *pipe) Drop { return Drop{Pipeline: p.Key, Reason: reason} })
	if len(actions) == 0 {
		return nil
	}
	return append(actions, m.repair()...)
}

func (m *Machine) faulted(e Faulted) []Action {
	p := m.pipes[e.Pipeline]
	if p == nil {
		return nil
	}
	if e.Stage >= 0 && e.Stage < len(p.Stages) {
		if node := p.Stages[e.Stage].Node; !slices.Contains(m.suspects, node) { // several pipelines may fail at once
			m.suspects = append(m.suspects, node)
		}
	}
	actions := m.drop(p, Drop{Pipeline: p.Key, Reason: fmt.Sprintf("%s failed: %s", p.name(e.Stage), e.Reason)})
	m.planAt = m.now.Add(newsDelay)
	if len(m.pipes) > 0 {
		return actions
	}
	return append(actions, m.wait("the pipeline failed and starts again: "+e.Reason)...)
}

func (m *Machine) tick() []Action {
	again := m.health.expire(m.now)
	if again && len(m.pipes) > 0 {
		m.consider()
	}
	if again && len(m.pipes) == 0 && m.planAt.IsZero() || !m.planAt.IsZero() && !m.now.Before(m.planAt) {
		return m.repair()
	}
	if !m.moveAt.IsZero() && !m.now.Before(m.moveAt) {
		return m.improve()
	}
	return nil
}

// dropOf drops the pipelines with a stage on a node.
func (m *Machine) dropOf(node string, why func(*pipe) Drop) []Action {
	var actions []Action
	for _, p := range m.sorted() {
		if p.OfNode(node) >= 0 {
			actions = append(actions, m.drop(p, why(p))...)
		}
	}
	return actions
}

// drop ends a pipeline. The shards hear of it by the next plan.
func (m *Machine) drop(p *pipe, d Drop) []Action {
	delete(m.pipes, p.Key)
	if !p.leaving && !m.anyLeaving() { // else those it was to replace go on
		m.lostPipes = append(m.lostPipes, lostPipe{p.Pipeline, d.Died})
	}
	return []Action{d}
}

func (m *Machine) anyLeaving() bool {
	for _, p := range m.pipes {
		if p.leaving {
			return true
		}
	}
	return false
}

// sorted returns the pipelines in order of their keys.
func (m *Machine) sorted() []*pipe {
	return slices.SortedFunc(maps.Values(m.pipes), func(a, b *pipe) int { return a.compare(b.Key) })
}

func (k Key) compare(o Key) int {
	switch {
	case k.Epoch != o.Epoch && k.Epoch < o.Epoch, k.Epoch == o.Epoch && k.ID < o.ID:
		return -1
	case k == o:
		return 0
	}
	return 1
}

// usable returns the nodes that may hold stages; cautious leaves out those that
// were lost too often.
func (m *Machine) usable(cautious bool) []Node {
	var out []Node
	for _, id := range slices.Sorted(maps.Keys(m.nodes)) {
		_, drained := m.drained[id]
		if !drained && m.health.usable(id, cautious) {
			out = append(out, m.nodes[id])
		}
	}
	return out
}

// wait notes why there is no pipeline; it says so once.
func (m *Machine) wait(reason string) []Action {
	if m.reason == reason && m.plan == nil {
		return nil
	}
	m.reason, m.plan = reason, nil
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
	parts := []string{reason}
	for _, id := range slices.Sorted(maps.Keys(m.nodes)) {
		if why := m.Aside(id); why != "" {
			parts = append(parts, why)
		}
	}
	return strings.Join(parts, "; ")
}

func (p *pipe) name(stage int) string {
	if stage < 0 || stage >= len(p.Stages) {
		return fmt.Sprintf("stage %d", stage)
	}
	s := p.Stages[stage]
	return fmt.Sprintf("node %s (stage %d, layers %d to %d)", s.Node, stage, s.Part.First, s.Part.End-1)
}
