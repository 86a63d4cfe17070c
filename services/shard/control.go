package shard

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/command"
)

// control is what the shard knows of its coordinator, the lease and the plan in
// force (command), and how far its stages are. Its methods may be called from any
// goroutine.
type control struct {
	mu        sync.Mutex
	machine   command.Machine           // guarded by mu
	pipelines map[command.Key]*pipeline // guarded by mu; of the plan in force
	states    []*pb.StageState          // guarded by mu; replaced, never changed
	children  []*pb.Child               // guarded by mu; replaced, never changed
	weights   *pb.WeightCheck           // guarded by mu; replaced, never changed; nil: there is nothing to say
	listener  chan struct{}             // guarded by mu; capacity 1: states, children or the check have changed
	replaced  chan struct{}             // guarded by mu; closed when another stream has taken over, or the shard stops
	stopped   error                     // guarded by mu; why the shard was stopped
}

func newControl() *control { return &control{pipelines: map[command.Key]*pipeline{}} }

// find returns a pipeline of the plan in force. Errors are statuses.
func (c *control) find(epoch uint64, id uint32) (*pipeline, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, seen := c.pipelines[command.Key{Epoch: epoch, ID: id}], c.machine.Epoch()
	switch {
	case p == nil && epoch < seen:
		return nil, status.Errorf(codes.FailedPrecondition, "epoch %d is over, this node has seen %d", epoch, seen)
	case epoch > seen:
		return nil, status.Errorf(codes.FailedPrecondition, "epoch %d is unknown, this node has seen %d", epoch, seen)
	case p == nil:
		return nil, status.Errorf(codes.NotFound, "pipeline %d has no stage on this node", id)
	case p.fuse.blown():
		return nil, ended(p)
	}
	return p, nil
}

// holds reports whether a coordinator commands this shard now.
func (c *control) holds(coordinator string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.Held(coordinator, time.Now())
}

// holder returns the coordinator that commands this shard now, or "".
func (c *control) holder() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.Holder(time.Now())
}

// take gives a coordinator's new stream the lease. The stream before it, of the
// same coordinator, is told by its replaced channel.
func (c *control) take(coordinator string, l *pb.Lease) (changed, replaced chan struct{}, refused *pb.Refused) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.machine.Grant(coordinator, l, time.Now()); r != nil {
		return nil, nil, r
	}
	if c.replaced != nil {
		close(c.replaced)
	}
	c.listener, c.replaced = make(chan struct{}, 1), make(chan struct{})
	return c.listener, c.replaced, nil
}

// renew prolongs the lease.
func (c *control) renew(coordinator string, l *pb.Lease) *pb.Refused {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.Grant(coordinator, l, time.Now())
}

// install makes a plan the one in force: the pipelines that it keeps go on, all
// others end. A plan that is in force already is no news.
func (c *control) install(coordinator string, plan *pb.Plan, fresh []*pipeline) (news bool, refused *pb.Refused) {
	c.mu.Lock()
	defer c.mu.Unlock()
	news, stay, refused := c.machine.Install(coordinator, plan, time.Now())
	if !news {
		return false, refused
	}
	now := map[command.Key]*pipeline{}
	for k, p := range c.pipelines {
		if stay[k] {
			now[k] = p
		}
	}
	for k, p := range c.pipelines {
		if now[k] == nil {
			p.fuse.blow(0, fmt.Errorf("the plan of epoch %d replaced it", plan.Epoch))
		}
	}
	for _, p := range fresh {
		if now[p.key()] == nil {
			now[p.key()] = p
		}
	}
	c.pipelines = now
	c.states = slices.DeleteFunc(slices.Clone(c.states), func(s *pb.StageState) bool {
		return now[command.Key{Epoch: s.Epoch, ID: s.Pipeline}] == nil
	})
	return true, nil
}

// wanted returns what is to be loaded now: the plan, and its pipelines that have
// not ended, oldest first.
func (c *control) wanted() (*pb.Plan, []*pipeline) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*pipeline
	for _, p := range c.pipelines {
		if !p.fuse.blown() {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *pipeline) int {
		return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.plan.Id, b.plan.Id))
	})
	return c.machine.Plan(), out
}

// report notes how far a stage is, unless its plan is over.
func (c *control) report(s *pb.StageState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pipelines[command.Key{Epoch: s.Epoch, ID: s.Pipeline}] == nil {
		return
	}
	states := make([]*pb.StageState, 0, len(c.states)+1)
	for _, old := range c.states {
		if old.Epoch != s.Epoch || old.Pipeline != s.Pipeline || old.Stage != s.Stage {
			states = append(states, old)
		}
	}
	c.states = append(states, s)
	c.tell()
}

// tell wakes the coordinator's stream; mu is held.
func (c *control) tell() {
	select {
	case c.listener <- struct{}{}:
	default: // nobody listens, or it has been told
	}
}

func (c *control) snapshot() ([]*pb.StageState, []*pb.Child, *pb.WeightCheck) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.states, c.children, c.weights
}

// checked notes what is known of the bytes of the model.
func (c *control) checked(w *pb.WeightCheck) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.weights = w
	c.tell()
}

// end ends all pipelines because the shard stops: somebody stopped it, or it failed.
func (c *control) end(reason error, stopped bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.machine.End(reason)
	if stopped {
		c.stopped = reason
	}
	for _, p := range c.pipelines {
		p.fuse.blow(0, reason)
	}
	if c.replaced != nil {
		close(c.replaced)
		c.replaced = nil
	}
}

// leaving says why the shard was stopped; nil when it was not.
func (c *control) leaving() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopped
}

// Control gives a coordinator the lease, takes its plans and tells it how far
// the stages are.
func (s *server) Control(stream pb.ShardService_ControlServer) error {
	peer, err := pki.PeerFromContext(stream.Context())
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetLease() == nil {
		return status.Error(codes.FailedPrecondition, "the first message of a Control stream is a lease")
	}
	changed, replaced, refused := s.control.take(peer.NodeID, first.GetLease())
	if refused != nil {
		return refuse(stream, refused)
	}
	failed := make(chan error, 1)
	refusals := make(chan *pb.Refused) // met by the sender
	go s.obey(stream, peer.NodeID, refusals, replaced, failed)
	sent := map[any]bool{}
	for {
		if err := s.control.sendNews(stream, sent); err != nil {
			return err
		}
		select {
		case <-changed:
		case r := <-refusals:
			return refuse(stream, r)
		case err := <-failed:
			return err
		case <-replaced:
			if why := s.control.leaving(); why != nil {
				return leave(stream, why)
			}
			return status.Error(codes.Aborted, "another Control stream has taken over, or the shard fails")
		}
	}
}

// leave is a shard's last word.
func leave(stream pb.ShardService_ControlServer, why error) error {
	err := stream.Send(&pb.ControlResponse{Message: &pb.ControlResponse_Leaving{Leaving: &pb.Leaving{Reason: why.Error()}}})
	return errors.Join(status.Error(codes.Aborted, why.Error()), err)
}

// obey follows what the coordinator says until the stream ends.
func (s *server) obey(stream pb.ShardService_ControlServer, peer string, refusals chan<- *pb.Refused, replaced <-chan struct{}, failed chan<- error) {
	for {
		m, err := stream.Recv()
		if err != nil {
			failed <- err
			return
		}
		var refused *pb.Refused
		switch {
		case m.GetLease() != nil:
			refused = s.control.renew(peer, m.GetLease())
		case m.GetPlan() != nil:
			refused = s.accept(peer, m.GetPlan())
		}
		if refused == nil {
			continue
		}
		select {
		case refusals <- refused:
		case <-replaced:
		case <-stream.Context().Done():
		}
		return
	}
}

// accept checks a plan whole, puts it in force and has it loaded.
func (s *Shard) accept(peer string, plan *pb.Plan) *pb.Refused {
	if refused := s.control.check(peer, plan); refused != nil {
		return refused
	}
	fresh, err := s.assign(plan)
	if err != nil {
		return s.control.refusePlan(plan, err)
	}
	news, refused := s.control.install(peer, plan, fresh)
	if !news {
		return refused
	}
	s.deps.Log.Info("new plan", "epoch", plan.Epoch, "model", plan.Model.Name, "pipelines", len(plan.Pipelines), "spares", len(plan.Spares))
	select {
	case s.plans <- struct{}{}:
	default: // the loader has not looked yet
	}
	return nil
}

func (c *control) check(coordinator string, plan *pb.Plan) *pb.Refused {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.Check(coordinator, plan)
}

func (c *control) refusePlan(plan *pb.Plan, why error) *pb.Refused {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.RefusePlan(plan, why)
}

// assign makes this node's parts of the pipelines of a plan.
func (s *Shard) assign(plan *pb.Plan) ([]*pipeline, error) {
	var out []*pipeline
	for _, pl := range plan.Pipelines {
		p, err := s.newPipeline(plan, pl)
		if err != nil {
			return nil, fmt.Errorf("pipeline %d: %w", pl.Id, err)
		}
		if len(p.stages) > 0 {
			out = append(out, p)
		}
	}
	for i, sp := range plan.Spares {
		if sp.Node == s.deps.Identity.NodeID() && int(sp.Device) >= len(s.devices) {
			return nil, fmt.Errorf("spare %d: device %d of %d", i, sp.Device, len(s.devices))
		}
	}
	return out, nil
}

func (c *control) highest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machine.Epoch()
}

func refuse(stream pb.ShardService_ControlServer, r *pb.Refused) error {
	err := stream.Send(&pb.ControlResponse{Message: &pb.ControlResponse_Refused{Refused: r}})
	return errors.Join(status.Error(codes.FailedPrecondition, r.Reason), err)
}

// sendNews sends the states, the children and the check that this stream has not heard.
func (c *control) sendNews(stream pb.ShardService_ControlServer, sent map[any]bool) error {
	states, children, check := c.snapshot()
	now := map[any]bool{}
	say := func(what any, m *pb.ControlResponse) error {
		now[what] = true
		if sent[what] {
			return nil
		}
		return stream.Send(m)
	}
	for _, st := range states {
		if err := say(st, &pb.ControlResponse{Message: &pb.ControlResponse_Stage{Stage: st}}); err != nil {
			return err
		}
	}
	for _, child := range children {
		if err := say(child, &pb.ControlResponse{Message: &pb.ControlResponse_Child{Child: child}}); err != nil {
			return err
		}
	}
	if check != nil {
		if err := say(check, &pb.ControlResponse{Message: &pb.ControlResponse_Check{Check: check}}); err != nil {
			return err
		}
	}
	clear(sent)
	maps.Copy(sent, now)
	return nil
}
