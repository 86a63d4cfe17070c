package coordinator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

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
	holder string // the other coordinator that commands it; "" is none
	reason string
	leaves bool            // it was stopped, and has said so
	check  *pb.WeightCheck // of the bytes of its weights; nil while it has said nothing
}

// owner holds all state of the coordinator. It is used by the one goroutine of
// run. Equal events at equal times have equal effects: it reads one clock, starts
// nothing but through outside, and goes through what it knows in a fixed order.
// The simulator (sim_test.go) runs it so.
type owner struct {
	c       *Coordinator
	log     *slog.Logger
	now     func() time.Time
	draw    func(below uint64) uint64 // a random number
	outside outside

	machine  *plan.Machine
	planned  []plan.Event // for the machine, once it is done with the one before
	nodes    map[string]*node
	children map[string]child // nodes that others supervise
	leased   time.Time        // when leases were renewed
	standing bool             // by, for another coordinator
	survey   survey

	loads    map[loadKey]*pb.LoadInfo // of stages that are not ready
	pipes    map[plan.Key]*pipeline
	context  int                 // positions of a session, by the last pipeline that served; 0 before the first
	attempts uint32              // the last one given out
	running  map[uint32]*session // by attempt
	scouts   map[uint32]*scout   // by attempt
	waiting  waiting
	turns    turnover // of places, while some wait

	kept      map[keptKey]*kept
	keptBytes int

	relays map[*relay]bool
	nobody *relay   // has the answers that no gateway has
	opened uint64   // of relays, so far
	dirty  []*relay // with messages to be sent after this event

	pictures int // bytes of those of all sessions

	journal journal
}

func newOwner(c *Coordinator) *owner {
	return &owner{
		c: c, log: c.deps.Log, now: time.Now, draw: rand.Uint64N,
		nodes:    map[string]*node{},
		children: map[string]child{},
		survey:   newSurvey(),
		loads:    map[loadKey]*pb.LoadInfo{},
		pipes:    map[plan.Key]*pipeline{},
		running:  map[uint32]*session{},
		scouts:   map[uint32]*scout{},
		relays:   map[*relay]bool{},
		kept:     map[keptKey]*kept{},
		nobody:   &relay{closed: true, sessions: map[uint64]*session{}},
		waiting:  waiting{preparing: map[*session]bool{}},
	}
}

// forget begins with a machine that knows no shard yet. Shards may hold plans of
// its coordinator that it will never hear of: its first epoch lies some way above
// what it hears of, so that no two plans have the same.
func (o *owner) forget() {
	const skip = 1 << 24
	cfg := o.c.cfg
	o.machine = plan.New(plan.Config{
		Model: o.c.deps.Model.Facts, Wishes: cfg.Wishes, Coordinator: cfg.Number, Skip: o.draw(skip), Place: cfg.Place,
	})
	o.planned = nil
	o.step(plan.Tick{Now: o.now()})
}

// run is the loop of the owner: whatever happens, happens here, one by one.
func (o *owner) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	started := &started{c: o.c, ctx: ctx}
	defer started.group.Wait()
	defer cancel()
	o.outside = started
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	o.forget()
	o.tick(o.now())
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

// tick lets time pass.
func (o *owner) tick(now time.Time) {
	o.step(plan.Tick{Now: now})
	if now.Sub(o.leased) >= leaseEvery {
		o.leased = now
		for _, id := range sortedKeys(o.nodes) {
			o.lease(o.nodes[id])
		}
	}
	o.retireBy(now)
	o.surveyNodes(now)
	o.expire(now)
	o.expireKept(now)
	o.cutSilent(now)
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

// findNodes reads gossip, and what nodes tell of their children, anew: shards are
// dialled, and those that have left are forgotten once their connection is down
// too.
func (o *owner) findNodes() {
	here := map[string]string{} // addresses
	for _, m := range o.c.deps.Members.Members() {
		for _, r := range m.Meta.Roles {
			if r == pki.Shard {
				here[m.NodeID] = m.Meta.GRPCAddr
			}
		}
	}
	for id, c := range o.children {
		if c.GetState() == pb.ChildState_CHILD_STATE_READY {
			here[id] = c.GetAddress()
		}
	}
	for _, id := range sortedKeys(here) {
		addr := here[id]
		if n := o.nodes[id]; n != nil {
			n.link.move(addr)
			continue
		}
		l := newLink(o.c, id, addr)
		l.stop = o.outside.connect(l)
		o.nodes[id] = &node{link: l, state: "joining"}
	}
	for id, n := range o.nodes {
		if _, ok := here[id]; !ok && n.conn == nil {
			n.link.stop()
			delete(o.nodes, id)
		}
	}
	o.standBy()
}

func (e linkUp) apply(o *owner) {
	n := o.nodes[e.conn.link.node]
	if n == nil || n.link != e.conn.link {
		return
	}
	n.holder = ""
	if o.standing { // for another coordinator, since the handshake
		e.conn.hangUp()
		return
	}
	n.conn, n.hello, n.state, n.reason, n.leaves = e.conn, e.hello, "ready", "", false
	if o.standBy(); n.conn == nil {
		return
	}
	o.log.Info("shard joined", "shard", n.link.node, "devices", len(e.hello.GetDevices()), "version", e.hello.GetVersion())
	o.note(noteNodeJoined, n.link.node, "")
	o.lease(n)
	if len(e.hello.GetDevices()) == 0 {
		return // its children compute
	}
	o.inform(n)
	o.join(n, e.speeds)
}

// inform tells a shard that was away which plan is in force: it gives up what it
// holds of an older one. One that has seen a newer plan gets the next, which the
// machine makes for it; one that has seen none holds nothing.
func (o *owner) inform(n *node) {
	if p, seen := o.machine.Plan(), n.hello.GetEpoch(); p != nil && seen != 0 && seen < p.Epoch {
		n.control(&pb.ControlRequest{Message: &pb.ControlRequest_Plan{Plan: o.planProto(p)}})
	}
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
	if n.leaves && n.conn == e.conn { // which has been told
		n.state, n.holder, n.conn, n.leaves = "lost", "", nil, false
		o.orphan(n.link.node)
		o.findNodes()
		return
	}
	if n.conn != nil || n.state != state || n.reason != e.err.Error() {
		o.log.Warn("shard "+state, "shard", n.link.node, "err", e.err)
		o.note(kind, n.link.node, e.err.Error())
	}
	n.state, n.reason, n.holder = state, e.err.Error(), ""
	if held := (*heldError)(nil); errors.As(e.err, &held) {
		n.holder = held.holder
	}
	if n.conn != nil && n.conn == e.conn {
		n.conn = nil
		o.orphan(n.link.node)
		o.blame(n.link.node) // the fault may have been heard of before
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
	if c := e.msg.GetChild(); c != nil {
		o.childState(n, c)
		return
	}
	if l := e.msg.GetLeaving(); l != nil {
		o.left(n, l.GetReason())
		return
	}
	if w := e.msg.GetCheck(); w != nil {
		n.check = w
		return
	}
	s := e.msg.GetStage()
	if s == nil || o.machine.Plan() == nil {
		return
	}
	key := plan.Key{Epoch: s.GetEpoch(), ID: s.GetPipeline()}
	p := o.machine.Plan().Find(key)
	if p == nil || int(s.GetStage()) >= len(p.Stages) || p.Stages[s.GetStage()].Node != n.link.node {
		return // of an old plan, of a reserve, or of another's stage
	}
	o.noteLoad(n.link.node, s)
	switch s.GetState() {
	case pb.LoadState_LOAD_STATE_READY:
		o.survey.of(n.link.node).used[p.Stages[s.GetStage()].Device] = deviceUse{s.GetUsedBytes(), s.GetUsedWeights(), s.GetUsedCaches()}
		o.step(plan.Loaded{Pipeline: key, Stage: int(s.GetStage())})
	case pb.LoadState_LOAD_STATE_FAILED:
		why := s.GetError()
		if why == "" {
			why = "it does not say why"
		}
		o.step(plan.Loaded{Pipeline: key, Stage: int(s.GetStage()), Err: why, NoMemory: s.GetNoMemory()})
	}
}

// left hears that a shard was stopped. Nobody is to blame for the end of what it
// computed; that may have been heard of before, by other streams.
func (o *owner) left(n *node, why string) {
	if n.leaves {
		return
	}
	n.leaves, n.reason = true, why
	o.log.Info("shard leaves", "shard", n.link.node, "reason", why)
	o.note(noteNodeLost, n.link.node, why)
	o.pardon(n.link.node)
	o.step(plan.Lost{Node: n.link.node, Reason: why, Stopped: true})
}

// step gives the plan machine an event and does what it asks for. What comes up
// meanwhile comes after.
func (o *owner) step(e plan.Event) {
	o.planned = append(o.planned, e)
	if len(o.planned) > 1 {
		return
	}
	for ; len(o.planned) > 0; o.planned = o.planned[1:] {
		for _, a := range o.machine.Step(o.planned[0]) {
			o.obey(a)
		}
	}
	o.planned = nil
}

func (o *owner) obey(a plan.Action) {
	switch a := a.(type) {
	case plan.Install:
		o.install(a.Plan)
	case plan.Start:
		o.open(a.Pipeline)
	case plan.Retire:
		o.retire(a.Pipeline, a.Reason)
	case plan.Drop:
		o.drop(a)
	case plan.Stay:
		o.log.Warn("a better plan does not fit in memory beside what serves", "reason", a.Reason, "retry", a.Retry)
		o.note(noteMoveFailed, "", a.Reason)
	case plan.Wait:
		o.log.Info("not ready", "reason", a.Reason)
		o.tellWaiting(phaseWaiting)
	}
}

// install sends a plan to every shard: those without a stage in it drop what
// they hold.
func (o *owner) install(p *plan.Plan) {
	var stages []string
	for _, pl := range p.Pipelines {
		stages = append(stages, fmt.Sprint(pl.Stages))
	}
	text := strings.Join(stages, " ")
	o.log.Info("new plan", "epoch", p.Epoch, "pipelines", text, "spares", fmt.Sprint(p.Spares))
	o.note(notePlan, "", text)
	o.tellWaiting(phaseRecovering)
	m := &pb.ControlRequest{Message: &pb.ControlRequest_Plan{Plan: o.planProto(p)}}
	for _, id := range sortedKeys(o.nodes) {
		if n := o.nodes[id]; n.conn != nil {
			n.control(m)
		}
	}
}

func (o *owner) planProto(p *plan.Plan) *pb.Plan {
	out := &pb.Plan{Epoch: p.Epoch, Coordinator: o.c.deps.Identity.NodeID(), Model: o.c.deps.Model.proto(), Holders: o.holders(), Draft: o.c.deps.Model.Draft.proto()}
	for _, pl := range p.Pipelines {
		out.Pipelines = append(out.Pipelines, pipelineProto(pl))
	}
	for _, s := range p.Spares {
		out.Spares = append(out.Spares, stageProto(s))
	}
	return out
}

func pipelineProto(p *plan.Pipeline) *pb.Pipeline {
	out := &pb.Pipeline{
		Id: p.ID, Epoch: p.Epoch, Pages: uint32(p.Pages), Slots: uint32(p.Slots), Rows: uint32(p.Rows),
		Lanes: uint32(len(p.Stages) + 1), Context: uint32(p.Context),
	}
	for _, s := range p.Stages {
		out.Stages = append(out.Stages, stageProto(s))
	}
	return out
}

func stageProto(s plan.Stage) *pb.Stage {
	return &pb.Stage{
		Node: s.Node, Address: s.Address, Device: uint32(s.Device),
		First: uint32(s.Part.First), End: uint32(s.Part.End), Embed: s.Part.Embed, Head: s.Part.Head,
		NumericsClass: s.Class, Fingerprint: s.Fingerprint,
	}
}

// open starts the streams of a pipeline whose stages are ready, or lets one
// serve on that was to be retired.
func (o *owner) open(key plan.Key) {
	if pipe := o.pipes[key]; pipe != nil {
		pipe.retiring = time.Time{}
		o.admit()
		return
	}
	p := o.machine.Plan().Find(key)
	pipe := &pipeline{
		plan: p, fingerprint: fingerprint(&o.c.deps.Model, p, o.c.cfg.Version), drive: newMailbox[*pb.DriveRequest](maxDrive),
		slots: make([]slot, p.Slots), free: p.Pages,
	}
	o.pipes[key] = pipe
	from, to := o.nodes[p.Stages[0].Node].conn, o.nodes[p.Stages[len(p.Stages)-1].Node].conn
	pipe.stop = o.outside.carry(pipe, from, to)
	o.log.Info("stages are loaded", "pipeline", key.String())
}

func (e pipelineUp) apply(o *owner) {
	p := o.pipes[e.key]
	if p == nil {
		return
	}
	p.ready = true
	o.context = p.plan.Context
	p.tempo.predict(o, p.plan)
	o.log.Info("ready", "pipeline", e.key.String(), "fingerprint", p.fingerprint)
	o.note(noteReady, "", "")
	o.admit()
}

func (e pipelineDown) apply(o *owner) {
	o.step(plan.Faulted{Pipeline: e.key, Stage: e.stage, Reason: e.err.Error()})
}

func (e driven) apply(o *owner) {
	p := o.pipes[e.key]
	if p == nil {
		return
	}
	switch m := e.msg.GetMessage().(type) {
	case *pb.DriveResponse_Prefilled:
		o.prefilled(p, m.Prefilled)
	case *pb.DriveResponse_Closed:
		o.slotClosed(p, m.Closed)
	case *pb.DriveResponse_Faulted:
		o.step(plan.Faulted{Pipeline: e.key, Stage: int(m.Faulted.GetStage()), Reason: m.Faulted.GetReason()})
	}
}

func (e stepDone) apply(o *owner) {
	p := o.pipes[e.key]
	if p == nil || e.result.Epoch != e.key.Epoch || e.result.Pipeline != e.key.ID {
		return
	}
	p.pace.note(e.result.Timings)
	p.tempo.ticked(p, e.result.Sampled, o.now())
	o.timed(p, e.result.Timings)
	o.turned(p)
	for i := range e.result.Sampled {
		o.sampled(p, &e.result.Sampled[i])
	}
}

// serving returns the pipelines on which sessions may be placed, oldest first.
func (o *owner) serving() []*pipeline {
	var out []*pipeline
	for _, p := range o.sortedPipes() {
		if p.serves() {
			out = append(out, p)
		}
	}
	return out
}

// sortedPipes returns the pipelines that have been started, oldest first.
func (o *owner) sortedPipes() []*pipeline {
	return slices.SortedFunc(maps.Values(o.pipes), func(a, b *pipeline) int {
		return cmp.Or(cmp.Compare(a.plan.Epoch, b.plan.Epoch), cmp.Compare(a.plan.ID, b.plan.ID))
	})
}

// reason says in a sentence why no request can run now, and by which code; an
// empty code says that one can.
func (o *owner) reason() (code, text string) {
	switch {
	case len(o.serving()) > 0:
		return "", ""
	case o.machine.Phase() == plan.Waiting:
		return codeNoCapacity, o.machine.Reason()
	}
	return codeLoading, "the model is loading" + o.loadingText()
}

// placed returns the sessions that have a slot, in order of their attempts.
func (o *owner) placed() []*session {
	return slices.SortedFunc(maps.Values(o.running), func(a, b *session) int { return cmp.Compare(a.attempt, b.attempt) })
}

// sortedRelays returns the gateways' streams, in the order in which they came.
func (o *owner) sortedRelays() []*relay {
	return slices.SortedFunc(maps.Keys(o.relays), func(a, b *relay) int { return cmp.Compare(a.number, b.number) })
}

// drain ends everything with a last word.
func (o *owner) drain() {
	for _, r := range o.sortedRelays() {
		for _, s := range r.inOrder() {
			o.stop(s, "drain")
		}
	}
	o.flush()
	for r := range o.relays {
		r.out.close()
	}
}
