package shard

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// control is what the shard knows of its coordinator: the lease, the plan in
// force and how far its stages are. Its methods may be called from any
// goroutine.
type control struct {
	mu        sync.Mutex
	lease     lease                // guarded by mu
	epoch     uint64               // guarded by mu; the highest that was accepted
	plan      *pb.Plan             // guarded by mu; of that epoch
	pipelines map[uint32]*pipeline // guarded by mu; of the plan in force
	states    []*pb.StageState     // guarded by mu; replaced, never changed
	listener  chan struct{}        // guarded by mu; capacity 1: states have changed
	replaced  chan struct{}        // guarded by mu; closed when another stream has taken over
	ended     error                // guarded by mu; set when the shard stops
}

// assignment is what a plan gives this node to load.
type assignment struct {
	plan      *pb.Plan
	pipelines []*pipeline
}

func newControl() *control { return &control{pipelines: map[uint32]*pipeline{}} }

// find returns a pipeline of the plan in force. Errors are statuses.
func (c *control) find(epoch uint64, id uint32) (*pipeline, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pipelines[id]
	switch {
	case epoch < c.epoch:
		return nil, status.Errorf(codes.FailedPrecondition, "epoch %d is over, this node has seen %d", epoch, c.epoch)
	case epoch > c.epoch:
		return nil, status.Errorf(codes.FailedPrecondition, "epoch %d is unknown, this node has seen %d", epoch, c.epoch)
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
	return c.lease.held(coordinator, time.Now())
}

// take gives a coordinator's new stream the lease. The stream before it, of the
// same coordinator, is told by its replaced channel.
func (c *control) take(coordinator string, l *pb.Lease) (changed, replaced chan struct{}, refused *pb.Refused) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.grant(coordinator, l); r != nil {
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
	return c.grant(coordinator, l)
}

func (c *control) grant(coordinator string, l *pb.Lease) *pb.Refused {
	switch {
	case c.ended != nil:
		return c.refuse(c.ended.Error())
	case l.GetCoordinator() != coordinator:
		return c.refuse(fmt.Sprintf("the lease is for %q, the certificate says %q", l.GetCoordinator(), coordinator))
	case !c.lease.grant(coordinator, time.Duration(l.GetDurationMs())*time.Millisecond, time.Now()):
		return c.refuse(fmt.Sprintf("coordinator %s holds the lease", c.lease.holder))
	}
	return nil
}

func (c *control) refuse(reason string) *pb.Refused {
	return &pb.Refused{Reason: reason, Epoch: c.epoch}
}

// install makes a plan the one in force and ends the pipelines of the one
// before. A plan that is in force already is no news.
func (c *control) install(coordinator string, a *assignment) (news bool, refused *pb.Refused) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended != nil:
		return false, c.refuse(c.ended.Error())
	case !c.lease.held(coordinator, time.Now()):
		return false, c.refuse("the lease has run out")
	case a.plan.Epoch < c.epoch:
		return false, c.refuse(fmt.Sprintf("epoch %d is over", a.plan.Epoch))
	case a.plan.Epoch == c.epoch && !proto.Equal(a.plan, c.plan):
		return false, c.refuse(fmt.Sprintf("epoch %d is that of another plan", a.plan.Epoch))
	case a.plan.Epoch == c.epoch:
		return false, nil
	}
	for _, p := range c.pipelines {
		p.fuse.blow(0, fmt.Errorf("the plan of epoch %d replaced it", a.plan.Epoch))
	}
	c.epoch, c.plan, c.pipelines, c.states = a.plan.Epoch, a.plan, map[uint32]*pipeline{}, nil
	for _, p := range a.pipelines {
		c.pipelines[p.plan.Id] = p
	}
	return true, nil
}

// report notes how far a stage is, unless its plan is over.
func (c *control) report(s *pb.StageState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.Epoch != c.epoch {
		return
	}
	states := make([]*pb.StageState, 0, len(c.states)+1)
	for _, old := range c.states {
		if old.Pipeline != s.Pipeline || old.Stage != s.Stage {
			states = append(states, old)
		}
	}
	c.states = append(states, s)
	select {
	case c.listener <- struct{}{}:
	default: // nobody listens, or it has been told
	}
}

func (c *control) snapshot() []*pb.StageState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.states
}

// end ends all pipelines because the shard stops.
func (c *control) end(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = reason
	for _, p := range c.pipelines {
		p.fuse.blow(0, reason)
	}
	if c.replaced != nil {
		close(c.replaced)
		c.replaced = nil
	}
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
	sent := map[*pb.StageState]bool{}
	for {
		states := s.control.snapshot()
		if err := sendStates(stream, states, sent); err != nil {
			return err
		}
		select {
		case <-changed:
		case r := <-refusals:
			return refuse(stream, r)
		case err := <-failed:
			return err
		case <-replaced:
			return status.Error(codes.Aborted, "another Control stream has taken over, or the shard stops")
		}
	}
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
	a := &assignment{plan: plan}
	err := checkPlan(plan)
	if err == nil && plan.Coordinator != peer {
		err = fmt.Errorf("it is of coordinator %q", plan.Coordinator)
	}
	if err == nil {
		a.pipelines, err = s.assign(plan)
	}
	if err != nil {
		return &pb.Refused{Reason: fmt.Sprintf("plan of epoch %d: %v", plan.GetEpoch(), err), Epoch: s.control.highest()}
	}
	news, refused := s.control.install(peer, a)
	if !news {
		return refused
	}
	s.deps.Log.Info("new plan", "epoch", plan.Epoch, "model", plan.Model.Name, "pipelines", len(a.pipelines))
	select { // a plan that the loader has not begun is out of date
	case <-s.plans:
	default:
	}
	s.plans <- a
	return nil
}

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
	return out, nil
}

func (c *control) highest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

func refuse(stream pb.ShardService_ControlServer, r *pb.Refused) error {
	err := stream.Send(&pb.ControlResponse{Message: &pb.ControlResponse_Refused{Refused: r}})
	return errors.Join(status.Error(codes.FailedPrecondition, r.Reason), err)
}

// sendStates sends the states that this stream has not heard.
func sendStates(stream pb.ShardService_ControlServer, states []*pb.StageState, sent map[*pb.StageState]bool) error {
	now := map[*pb.StageState]bool{}
	for _, st := range states {
		now[st] = true
		if sent[st] {
			continue
		}
		if err := stream.Send(&pb.ControlResponse{Message: &pb.ControlResponse_Stage{Stage: st}}); err != nil {
			return err
		}
	}
	clear(sent)
	for st := range now {
		sent[st] = true
	}
	return nil
}
