package plan

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// When running pipelines are replaced by better ones.
const (
	gainLeast = 0.1 // a smaller gain is not worth a pause
	moveEvery = 5   // times the steady time at most, unless a node is drained; doubled each time that memory was short
	moveMost  = 10 * time.Minute
)

// consider has running pipelines looked at once the nodes have been steady.
func (m *Machine) consider() {
	if m.moveAt.IsZero() {
		m.moveAt = m.now.Add(m.cfg.Wishes.Steady)
	}
}

// drain begins to empty a node, or lets it be used again.
func (m *Machine) drain(e Drain) []Action {
	m.unfit = 0
	if e.Undo {
		if _, ok := m.drained[e.Node]; ok {
			delete(m.drained, e.Node)
			m.consider()
			if len(m.pipes) == 0 && m.planAt.IsZero() { // nothing runs that could become better
				m.planAt = m.now.Add(m.cfg.Wishes.Settle)
			}
		}
		return nil
	}
	m.drained[e.Node] = ""
	if len(m.pipes) == 0 {
		return nil
	}
	return m.improve()
}

// draining reports whether a node that is to be empty holds a stage.
func (m *Machine) draining() bool {
	for node := range m.drained {
		for _, p := range m.pipes {
			if p.OfNode(node) >= 0 {
				return true
			}
		}
	}
	return false
}

// improve looks for something better than what runs and begins to prepare it.
// What runs serves on until that is ready.
func (m *Machine) improve() []Action {
	m.moveAt = time.Time{}
	if len(m.pipes) == 0 { // there is nothing to be better than
		return nil
	}
	forced := m.draining()
	for _, p := range m.pipes {
		if !p.ready || p.leaving { // one change at a time
			m.consider()
			return nil
		}
	}
	if next := m.moved.Add(m.pause()); !forced && !m.moved.IsZero() && m.now.Before(next) {
		m.moveAt = next
		return nil
	}
	p, err := m.place(Facts{Leaving: m.kept(nil)})
	if forced && m.unfit > 0 {
		err = errors.New("memory is too short for the new pipelines beside the old")
	}
	if err == nil && (forced || p.Gain >= gainLeast) {
		return m.move(p)
	}
	if forced {
		return m.clear(err)
	}
	// Not better, or not possible at once. Something may be added.
	if p, err = m.place(Facts{Kept: m.kept(nil)}); err != nil {
		return nil
	}
	return m.install(p.Pipelines, p.Spares)
}

// pause is the time between two moves.
func (m *Machine) pause() time.Duration {
	p := moveEvery * m.cfg.Wishes.Steady
	for range m.unfit {
		p = min(2*p, max(p, moveMost))
	}
	return p
}

// unfitted notes that what was to replace running pipelines did not fit beside them. It
// would not the next time: until nodes change it is tried more and more seldom.
func (m *Machine) unfitted(reason string) []Action {
	if m.unfit++; m.unfit > 1 {
		return nil
	}
	return []Action{Stay{reason, m.pause()}}
}

// move prepares new pipelines beside those that are to leave.
func (m *Machine) move(p Placement) []Action {
	m.cleared()
	fresh, stay := m.compare(p)
	for _, old := range m.pipes {
		old.leaving = !stay[old.Key]
	}
	if len(fresh) > 0 {
		m.moved = m.now
	}
	return append(m.install(fresh, p.Spares), m.retire()...)
}

// clear empties drained nodes where both cannot be held at once: their pipelines
// go before the new ones come. Their sessions wait.
func (m *Machine) clear(cause error) []Action {
	p, err := m.place(Facts{})
	if err != nil {
		for node := range m.drained {
			m.drained[node] = fmt.Sprintf("node %s cannot be drained: %v", node, err)
		}
		return nil
	}
	m.cleared()
	fresh, stay := m.compare(p)
	var actions []Action
	for _, old := range m.sorted() {
		if !stay[old.Key] {
			actions = append(actions, m.drop(old, Drop{Pipeline: old.Key, Reason: fmt.Sprintf("it makes room: %v", cause), Meant: true})...)
		}
	}
	m.lostPipes, m.moved = nil, m.now
	return append(actions, m.install(fresh, p.Spares)...)
}

// cleared forgets why nodes could not be drained.
func (m *Machine) cleared() {
	for node := range m.drained {
		m.drained[node] = ""
	}
}

// compare tells the pipelines of a placement that are new from those that run
// already.
func (m *Machine) compare(p Placement) (fresh []*Pipeline, stay map[Key]bool) {
	stay = map[Key]bool{}
next:
	for _, pl := range p.Pipelines {
		for _, old := range m.sorted() {
			if !stay[old.Key] && old.same(pl) {
				stay[old.Key] = true
				continue next
			}
		}
		fresh = append(fresh, pl)
	}
	return fresh, stay
}

// retire sends the sessions of leaving pipelines away once all others are ready.
func (m *Machine) retire() []Action {
	for _, p := range m.pipes {
		if !p.leaving && !p.ready {
			return nil
		}
	}
	if !m.anyStaying() {
		return nil
	}
	var actions []Action
	for _, p := range m.sorted() {
		if p.leaving && !p.retired {
			p.retired, m.unfit = true, 0
			actions = append(actions, Retire{p.Key, "a better plan is ready"})
		}
	}
	return actions
}

// anyStaying reports whether there is a pipeline that is not to leave.
func (m *Machine) anyStaying() bool {
	for _, p := range m.pipes {
		if !p.leaving {
			return true
		}
	}
	return false
}

// emptied ends a pipeline that nobody uses any more.
func (m *Machine) emptied(e Emptied) []Action {
	p := m.pipes[e.Pipeline]
	if p == nil || !p.retired || !m.anyStaying() { // it may be needed after all
		return nil
	}
	delete(m.pipes, p.Key)
	actions := []Action{Drop{Pipeline: p.Key, Reason: "its sessions have moved", Meant: true}}
	if slices.ContainsFunc(m.sorted(), func(p *pipe) bool { return p.retired }) {
		return actions
	}
	return append(actions, m.install(nil, m.reserve)...)
}
