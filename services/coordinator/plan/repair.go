package plan

import (
	"fmt"
	"slices"
	"time"
)

// lostPipe is a pipeline that was dropped and is not replaced yet.
type lostPipe struct {
	*Pipeline
	died string // the node that had to begin anew; empty when none
}

// repair replaces the pipelines that were lost, and leaves those that run as
// they are. A lost stage goes to a device that holds its weights in reserve;
// else layers are placed anew.
func (m *Machine) repair() []Action {
	m.planAt = time.Time{}
	for _, node := range m.suspects { // nobody was lost meanwhile
		m.health.faulted(node, m.now)
	}
	m.suspects = nil
	if n := len(m.nodes); len(m.pipes) == 0 && (n == 0 || m.forming && n < m.cfg.Wishes.MinShards) {
		return m.wait(m.missing(n))
	}
	actions := m.resume()
	fresh, spares := m.substitutes()
	if len(fresh) < len(m.lostPipes) || len(fresh) == 0 {
		p, err := m.place(Facts{Kept: m.kept(fresh)})
		switch {
		case err == nil:
			fresh, spares = append(fresh, p.Pipelines...), p.Spares
		case len(m.pipes)+len(fresh) == 0:
			return append(actions, m.wait(m.withFailures(err.Error()))...)
		}
	}
	m.lostPipes = nil
	if len(m.pipes)+len(fresh) == 0 {
		return append(actions, m.wait(m.withFailures("no pipeline is possible"))...)
	}
	m.consider() // reserves may be used up, and survivors badly laid out
	return append(actions, m.install(fresh, spares)...)
}

// resume lets pipelines go on that were to leave, when those that were to take
// over are gone.
func (m *Machine) resume() []Action {
	for _, p := range m.pipes {
		if !p.leaving {
			return nil
		}
	}
	var actions []Action
	for _, p := range m.sorted() {
		if p.retired {
			actions = append(actions, Start{p.Key})
		}
		p.leaving, p.retired = false, false
	}
	return actions
}

// substitutes makes lost pipelines anew whose lost stages all have a reserve.
// It returns them and the reserves that are left.
func (m *Machine) substitutes() (fresh []*Pipeline, spares []Stage) {
	spares = slices.DeleteFunc(slices.Clone(m.reserve), func(s Stage) bool { return !m.alive(s.Node) })
	m.readdress(spares)
	for _, lost := range m.lostPipes {
		again := *lost.Pipeline
		again.Stages = slices.Clone(lost.Stages)
		left, ok := slices.Clone(spares), true
		for i, s := range again.Stages {
			if s.Node != lost.died && m.alive(s.Node) {
				continue
			}
			at := slices.IndexFunc(left, func(r Stage) bool { return r.Part == s.Part })
			if ok = at >= 0; !ok {
				break
			}
			again.Stages[i] = left[at]
			left = slices.Delete(left, at, at+1)
		}
		if ok {
			m.readdress(again.Stages)
			fresh, spares = append(fresh, &again), left
		}
	}
	return fresh, spares
}

// readdress gives stages the addresses that their nodes have now: one that comes
// back may have another.
func (m *Machine) readdress(stages []Stage) {
	for i, s := range stages {
		stages[i].Address = m.nodes[s.Node].Address
	}
}

// alive reports whether a node may hold stages.
func (m *Machine) alive(node string) bool {
	_, here := m.nodes[node]
	_, drained := m.drained[node]
	return here && !drained && m.health.usable(node, true)
}

// kept returns the pipelines of the plan and others beside them.
func (m *Machine) kept(more []*Pipeline) []*Pipeline {
	var out []*Pipeline
	for _, p := range m.sorted() {
		out = append(out, p.Pipeline)
	}
	return append(out, more...)
}

// place asks the placer, first without the nodes that were lost too often.
func (m *Machine) place(f Facts) (Placement, error) {
	f.Model, f.Wishes, f.Spares = m.cfg.Model, m.cfg.Wishes, m.reserve
	f.Nodes = m.usable(true)
	p, err := m.cfg.Place(f)
	if all := m.usable(false); len(all) > len(f.Nodes) && (err != nil || len(p.Pipelines)+len(f.Kept) == 0) {
		f.Nodes = all
		p, err = m.cfg.Place(f)
	}
	if err != nil && (len(m.lostPipes) > 0 || m.draining()) && f.Wishes.Spares > 0 { // now they are needed
		f.Wishes.Spares, f.Wishes.Aim.Spares = 0, 0
		p, err = m.cfg.Place(f)
	}
	m.placed = p.Explanation
	return p, err
}

// install makes a plan of the pipelines there are and fresh ones.
func (m *Machine) install(fresh []*Pipeline, spares []Stage) []Action {
	if m.plan != nil && len(fresh) == 0 && len(m.plan.Pipelines) == len(m.pipes) && slices.EqualFunc(m.plan.Spares, spares, Stage.same) {
		return nil // pipelines never come back, so as many are the same
	}
	m.forming = false
	m.nextEpoch()
	for _, p := range fresh {
		p.Key = Key{m.seen, m.freeID()}
		m.pipes[p.Key] = &pipe{Pipeline: p, loaded: make([]bool, len(p.Stages))}
	}
	m.reserve, m.explained = spares, m.placed
	m.plan = &Plan{Epoch: m.seen, Pipelines: m.kept(nil), Spares: spares}
	return []Action{Install{m.plan}}
}

// nextEpoch goes on to an epoch above all that anybody has seen.
func (m *Machine) nextEpoch() {
	m.seen = (m.seen>>8+1+m.cfg.Skip)<<8 | uint64(m.cfg.Coordinator)
	m.issued, m.cfg.Skip = m.seen, 0
}

// outrun makes the plan in force anew where a node has seen a newer one, of another
// coordinator. It would refuse the one in force and keep what it holds of the newer.
func (m *Machine) outrun(epoch uint64) []Action {
	if m.plan == nil || epoch <= m.plan.Epoch {
		return nil
	}
	m.nextEpoch()
	m.plan = &Plan{Epoch: m.seen, Pipelines: m.plan.Pipelines, Spares: m.plan.Spares}
	return []Action{Install{m.plan}}
}

// freeID returns the least number that no pipeline has.
func (m *Machine) freeID() uint32 {
	taken := map[uint32]bool{}
	for k := range m.pipes {
		taken[k.ID] = true
	}
	id := uint32(0)
	for taken[id] {
		id++
	}
	return id
}

// drainText says how far the draining of a node is.
func (m *Machine) drainText(node string) string {
	for _, p := range m.pipes {
		if p.OfNode(node) >= 0 {
			return fmt.Sprintf("node %s is being drained", node)
		}
	}
	return fmt.Sprintf("node %s is drained", node)
}
