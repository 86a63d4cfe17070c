// Package command holds the machine by which a shard decides whom it obeys: which
// coordinator holds its lease, which plan is in force, and which pipelines go on
// when another plan comes.
//
// The Machine is pure: it has no clock, no goroutine and does no I/O.
package command

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Key is the identity of a pipeline in all plans that hold it: the epoch of the
// plan that made it, and its number.
type Key struct {
	Epoch uint64
	ID    uint32
}

// KeyOf returns the identity of a pipeline of a plan.
func KeyOf(plan *pb.Plan, p *pb.Pipeline) Key {
	if p.Epoch == 0 {
		return Key{plan.Epoch, p.Id}
	}
	return Key{p.Epoch, p.Id}
}

// Machine is what a shard goes by. The zero value obeys nobody yet. It is used by
// one goroutine at a time.
type Machine struct {
	lease lease
	epoch uint64 // the highest that was accepted
	plan  *pb.Plan
	ended error
}

// Epoch returns the highest epoch of a plan that was accepted.
func (m *Machine) Epoch() uint64 { return m.epoch }

// Plan returns the plan in force; nil is none. It is not changed.
func (m *Machine) Plan() *pb.Plan { return m.plan }

// Held reports whether a coordinator commands the shard now.
func (m *Machine) Held(coordinator string, now time.Time) bool {
	return m.lease.held(coordinator, now)
}

// Holder returns the coordinator that commands the shard now, or "".
func (m *Machine) Holder(now time.Time) string {
	if m.lease.held(m.lease.holder, now) {
		return m.lease.holder
	}
	return ""
}

// End refuses everything from now on, for a reason.
func (m *Machine) End(reason error) { m.ended = reason }

// Ended returns why everything is refused; nil is nothing.
func (m *Machine) Ended() error { return m.ended }

// Grant gives a coordinator the lease that it asks for, or more of it; else it
// says why not.
func (m *Machine) Grant(coordinator string, l *pb.Lease, now time.Time) *pb.Refused {
	switch {
	case m.ended != nil:
		return m.refuse(m.ended.Error())
	case l.GetCoordinator() != coordinator:
		return m.refuse(fmt.Sprintf("the lease is for %q, the certificate says %q", l.GetCoordinator(), coordinator))
	case !m.lease.grant(coordinator, time.Duration(l.GetDurationMs())*time.Millisecond, now):
		return m.refuse(fmt.Sprintf("coordinator %s holds the lease", m.lease.holder))
	}
	return nil
}

// Check says why a coordinator's plan cannot be carried out by anybody; nil when
// it can.
func (m *Machine) Check(coordinator string, plan *pb.Plan) *pb.Refused {
	err := check(plan)
	if err == nil && plan.Coordinator != coordinator {
		err = fmt.Errorf("it is of coordinator %q", plan.Coordinator)
	}
	if err != nil {
		return m.RefusePlan(plan, err)
	}
	return nil
}

// RefusePlan says that a plan cannot be carried out here.
func (m *Machine) RefusePlan(plan *pb.Plan, why error) *pb.Refused {
	return m.refuse(fmt.Sprintf("plan of epoch %d: %v", plan.GetEpoch(), why))
}

// Install makes a plan that was checked the one in force, or says why not. Then
// the pipelines of stay go on, and all others that there were have ended. A plan
// that is in force already is no news.
func (m *Machine) Install(coordinator string, plan *pb.Plan, now time.Time) (news bool, stay map[Key]bool, refused *pb.Refused) {
	switch {
	case m.ended != nil:
		return false, nil, m.refuse(m.ended.Error())
	case !m.lease.held(coordinator, now):
		return false, nil, m.refuse("the lease has run out")
	case plan.Epoch < m.epoch:
		return false, nil, m.refuse(fmt.Sprintf("epoch %d is over", plan.Epoch))
	case plan.Epoch == m.epoch && !proto.Equal(plan, m.plan):
		return false, nil, m.refuse(fmt.Sprintf("epoch %d is that of another plan", plan.Epoch))
	case plan.Epoch == m.epoch:
		return false, nil, nil
	}
	before := map[Key]*pb.Pipeline{}
	for _, p := range m.plan.GetPipelines() {
		before[KeyOf(m.plan, p)] = p
	}
	stay = map[Key]bool{}
	for _, p := range plan.Pipelines {
		k := KeyOf(plan, p)
		if old := before[k]; old != nil && proto.Equal(old, p) && proto.Equal(m.plan.Model, plan.Model) {
			stay[k] = true
		}
	}
	m.epoch, m.plan = plan.Epoch, plan
	return true, stay, nil
}

func (m *Machine) refuse(reason string) *pb.Refused {
	return &pb.Refused{Reason: reason, Epoch: m.epoch}
}
