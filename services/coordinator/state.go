package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// event is something that happened; the owner applies it.
type event interface{ apply(o *owner) }

// node is a shard as the owner knows it.
type node struct {
	link   *link
	conn   *shardConn // nil while there is none
	hello  *pb.HelloResponse
	state  string // joining, ready, lost or refused
	reason string
}

// owner holds all state of the coordinator. It is used by the one goroutine of
// run.
type owner struct {
	c     *Coordinator
	log   *slog.Logger
	ctx   func() (context.Context, context.CancelFunc) // for goroutines it starts
	group sync.WaitGroup                               // of those goroutines

	machine *plan.Machine
	nodes   map[string]*node
	leased  time.Time // when leases were renewed

	pipe        *pipeline
	fingerprint string
	slots       []slot
	free        int                 // KV pages
	attempts    uint32              // the last one given out
	running     map[uint32]*session // by attempt
	waiting     waiting

	relays map[*relay]bool
	dirty  []*relay // with messages to be sent after this event

	journal journal
}

// slot is a place for one session on the pipeline.
type slot struct {
	attempt uint32 // 0 is free
	pages   int
}

func newOwner(c *Coordinator) *owner {
	return &owner{
		c: c, log: c.deps.Log,
		machine: plan.New(plan.Config{Model: c.deps.Model.Facts, Wishes: c.cfg.Wishes, Coordinator: c.cfg.Number}),
		nodes:   map[string]*node{},
		running: map[uint32]*session{},
		relays:  map[*relay]bool{},
		waiting: waiting{preparing: map[*session]bool{}},
	}
}

// run is the loop of the owner: whatever happens, happens here, one by one.
func (o *owner) run(ctx context.Context) {
	defer o.group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o.ctx = func() (context.Context, context.CancelFunc) { return context.WithCancel(ctx) }
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	o.tick(time.Now())
	o.findNodes()
	for {
		select {
		case <-ctx.Done():
			o.drain()
			close(o.c.ended) // before the wait for goroutines that may be posting
			return
		case e := <-o.c.events:
			e.apply(o)
		case <-o.c.deps.Members.Changed():
			o.findNodes()
		case now := <-ticker.C:
			o.tick(now)
		}
		o.flush()
	}
}

// start runs f in a goroutine that ends with the owner, or by stop.
func (o *owner) start(f func(ctx context.Context)) (stop context.CancelFunc) {
	ctx, stop := o.ctx()
	o.group.Go(func() { f(ctx) })
	return stop
}

// tick lets time pass.
func (o *owner) tick(now time.Time) {
	o.step(plan.Tick{Now: now})
	if now.Sub(o.leased) >= leaseEvery {
		o.leased = now
		for _, n := range o.nodes {
			o.lease(n)
		}
	}
	o.expire(now)
}

// lease renews the lease of a shard that is connected.
func (o *owner) lease(n *node) {
	if n.conn == nil {
		return
	}
	n.control(&pb.ControlRequest{Message: &pb.ControlRequest_Lease{Lease: &pb.Lease{
		Coordinator: o.c.deps.Identity.NodeID(), Epoch: o.machine.Epoch(), DurationMs: uint32(leaseFor.Milliseconds()),
	}}})
}

// control queues a message. A shard that takes nothing is lost by its silence.
func (n *node) control(m *pb.ControlRequest) { n.conn.control.put(m) }

// findNodes reads gossip anew: shards are dialled, and those that have left
// gossip are forgotten once their connection is down too.
func (o *owner) findNodes() {
	here := map[string]cluster.Member{}
	for _, m := range o.c.deps.Members.Members() {
		for _, r := range m.Meta.Roles {
			if r == pki.Shard {
				here[m.NodeID] = m
			}
		}
	}
	for id, m := range here {
		if n := o.nodes[id]; n != nil {
			n.link.move(m.Meta.GRPCAddr)
			continue
		}
		l := newLink(o.c, id, m.Meta.GRPCAddr)
		l.stop = o.start(l.run)
		o.nodes[id] = &node{link: l, state: "joining"}
	}
	for id, n := range o.nodes {
		if _, ok := here[id]; !ok && n.conn == nil {
			n.link.stop()
			delete(o.nodes, id)
		}
	}
}

func (e linkUp) apply(o *owner) {
	n := o.nodes[e.conn.link.node]
	if n == nil || n.link != e.conn.link {
		return
	}
	n.conn, n.hello, n.state, n.reason = e.conn, e.hello, "ready", ""
	o.log.Info("shard joined", "shard", n.link.node, "devices", len(e.hello.GetDevices()), "version", e.hello.GetVersion())
	o.journal.note(noteNodeJoined, n.link.node, "")
	joined := plan.Node{ID: n.link.node, Address: *n.link.addr.Load()}
	for _, d := range e.hello.GetDevices() {
		joined.Devices = append(joined.Devices, plan.Device{
			Index: int(d.GetIndex()), Memory: d.GetMemoryBytes(), Class: d.GetNumericsClass(), Fingerprint: d.GetFingerprint(),
		})
	}
	o.lease(n)
	o.step(plan.Joined{Node: joined, Epoch: e.hello.GetEpoch()})
}

func (e linkDown) apply(o *owner) {
	n := o.nodes[e.link.node]
	if n == nil || n.link != e.link {
		return
	}
	state, kind := "lost", noteNodeLost
	if errors.Is(e.err, errRefused) {
		state, kind = "refused", noteNodeRefused
	}
	if n.conn != nil || n.state != state || n.reason != e.err.Error() {
		o.log.Warn("shard "+state, "shard", n.link.node, "err", e.err)
		o.journal.note(kind, n.link.node, e.err.Error())
	}
	n.state, n.reason = state, e.err.Error()
	if n.conn != nil && n.conn == e.conn {
		n.conn = nil
		o.step(plan.Lost{Node: n.link.node, Reason: n.reason})
	}
	o.findNodes()
}

// controlled is what a shard says of its stages.
type controlled struct {
	conn *shardConn
	msg  *pb.ControlResponse
}

func (e controlled) apply(o *owner) {
	n := o.nodes[e.conn.link.node]
	if n == nil || n.conn != e.conn {
		return
	}
	if r := e.msg.GetRefused(); r != nil {
		o.log.Warn("shard refused", "shard", n.link.node, "reason", r.GetReason(), "epoch", r.GetEpoch())
		n.reason = r.GetReason()
		o.step(plan.Refused{Node: n.link.node, Epoch: r.GetEpoch(), Reason: r.GetReason()})
		return
	}
	s, p := e.msg.GetStage(), o.machine.Plan()
	if s == nil || p == nil || s.GetEpoch() != p.Epoch || s.GetPipeline() != pipelineID ||
		int(s.GetStage()) >= len(p.Stages) || p.Stages[s.GetStage()].Node != n.link.node {
		return // of an old plan, or of another's stage
	}
	switch s.GetState() {
	case pb.LoadState_LOAD_STATE_READY:
		o.step(plan.Loaded{Epoch: s.GetEpoch(), Stage: int(s.GetStage())})
	case pb.LoadState_LOAD_STATE_FAILED:
		why := s.GetError()
		if why == "" {
			why = "it does not say why"
		}
		o.step(plan.Loaded{Epoch: s.GetEpoch(), Stage: int(s.GetStage()), Err: why})
	}
}

// step gives the plan machine an event and does what it asks for.
func (o *owner) step(e plan.Event) {
	for _, a := range o.machine.Step(e) {
		switch a := a.(type) {
		case plan.Install:
			o.install(a.Plan)
		case plan.Start:
			o.open(a.Epoch)
		case plan.Drop:
			o.drop(a.Reason)
		case plan.Wait:
			o.log.Info("not ready", "reason", a.Reason)
		}
	}
}

// install sends a plan to every shard: those without a stage in it drop what
// they hold.
func (o *owner) install(p *plan.Plan) {
	o.log.Info("new plan", "epoch", p.Epoch, "stages", fmt.Sprint(p.Stages), "sessions", p.Sessions, "context", p.Context)
	o.journal.note(notePlan, "", fmt.Sprint(p.Stages))
	m := &pb.ControlRequest{Message: &pb.ControlRequest_Plan{Plan: o.planProto(p)}}
	for _, n := range o.nodes {
		if n.conn != nil {
			n.control(m)
		}
	}
}

func (o *owner) planProto(p *plan.Plan) *pb.Plan {
	return &pb.Plan{
		Epoch: p.Epoch, Coordinator: o.c.deps.Identity.NodeID(),
		Model: o.c.deps.Model.proto(), Pipelines: []*pb.Pipeline{pipelineProto(p)},
	}
}

func pipelineProto(p *plan.Plan) *pb.Pipeline {
	out := &pb.Pipeline{
		Id: pipelineID, Pages: uint32(p.Pages), Slots: uint32(p.Slots), Rows: uint32(p.Rows),
		Lanes: 1, Context: uint32(p.Context),
	}
	for _, s := range p.Stages {
		out.Stages = append(out.Stages, &pb.Stage{
			Node: s.Node, Address: s.Address, Device: uint32(s.Device),
			First: uint32(s.Part.First), End: uint32(s.Part.End), Embed: s.Part.Embed, Head: s.Part.Head,
			NumericsClass: s.Class, Fingerprint: s.Fingerprint,
		})
	}
	return out
}

// open starts the streams of a plan whose stages are ready.
func (o *owner) open(epoch uint64) {
	p := o.machine.Plan()
	first, last := o.nodes[p.Stages[0].Node], o.nodes[p.Stages[len(p.Stages)-1].Node]
	o.slots, o.free = make([]slot, p.Slots), p.Pages
	o.fingerprint = fingerprint(&o.c.deps.Model, p, o.c.cfg.Version)
	pipe := &pipeline{plan: p, drive: newMailbox[*pb.DriveRequest](maxDrive)}
	o.pipe = pipe
	from, to := first.conn, last.conn
	pipe.stop = o.start(func(ctx context.Context) { o.c.runPipeline(ctx, pipe, from, to) })
	o.log.Info("stages are loaded", "epoch", epoch)
}

func (e pipelineUp) apply(o *owner) {
	if o.pipe == nil || o.pipe.plan.Epoch != e.epoch {
		return
	}
	o.pipe.ready = true
	o.log.Info("ready", "epoch", e.epoch, "fingerprint", o.fingerprint)
	o.journal.note(noteReady, "", "")
	o.admit()
}

func (e pipelineDown) apply(o *owner) {
	o.step(plan.Faulted{Epoch: e.epoch, Stage: e.stage, Reason: e.err.Error()})
}

// drop ends the pipeline: every session on it gets its one error, at once.
func (o *owner) drop(reason string) {
	o.log.Warn("pipeline lost", "reason", reason, "sessions", len(o.running))
	o.journal.note(notePipelineLost, "", reason)
	if o.pipe != nil {
		o.pipe.stop()
	}
	o.pipe, o.slots, o.free = nil, nil, 0
	for _, s := range o.running {
		o.fail(s, later(codeShardLost, "The answer was interrupted: %s.", reason))
	}
}

func (e driven) apply(o *owner) {
	if o.pipe == nil || o.pipe.plan.Epoch != e.epoch {
		return
	}
	switch m := e.msg.GetMessage().(type) {
	case *pb.DriveResponse_Prefilled:
		if s := o.running[m.Prefilled.GetAttempt()]; s != nil {
			s.cached = int(m.Prefilled.GetCached())
			o.progress(s, "prefill", int64(m.Prefilled.GetDone()), int64(m.Prefilled.GetTotal()))
		}
	case *pb.DriveResponse_Closed:
		o.slotClosed(m.Closed)
	case *pb.DriveResponse_Faulted:
		o.step(plan.Faulted{Epoch: e.epoch, Stage: int(m.Faulted.GetStage()), Reason: m.Faulted.GetReason()})
	}
}

func (e stepDone) apply(o *owner) {
	if o.pipe == nil || o.pipe.plan.Epoch != e.result.Epoch {
		return
	}
	for i := range e.result.Sampled {
		o.sampled(&e.result.Sampled[i])
	}
}

// reason says in a sentence why no request can run now, and by which code; an
// empty code says that one can.
func (o *owner) reason() (code, text string) {
	switch {
	case o.pipe != nil && o.pipe.ready:
		return "", ""
	case o.machine.Phase() == plan.Waiting:
		return codeNoCapacity, o.machine.Reason()
	}
	return codeLoading, "the model is loading"
}

// drain ends everything with a last word.
func (o *owner) drain() {
	for r := range o.relays {
		for _, s := range r.sessions {
			o.stop(s, "drain")
		}
	}
	o.flush()
	for r := range o.relays {
		r.out.close()
	}
}
