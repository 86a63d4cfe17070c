package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// simHead is a coordinator: the owner as the program has it, with everything that
// it decides, on a virtual clock. What the program does outside of it with
// goroutines (links, streams of pipelines, relays, workers) is done here with events.
type simHead struct {
	*simProc
	s       *simulation
	id      *pki.Identity
	number  uint8
	o       *owner
	view    map[string]string // addresses of shards, by gossip
	links   []*simLink
	conns   []*simConn
	carried []*simCarry
	relays  []*simRelay
}

// simIdentities are made once: what is in them does not matter.
var simIdentities = struct {
	sync.Mutex
	secret pki.Secret
	of     map[string]*pki.Identity
}{secret: pki.NewSecret(), of: map[string]*pki.Identity{}}

func simIdentity(name string) *pki.Identity {
	simIdentities.Lock()
	defer simIdentities.Unlock()
	if simIdentities.of[name] == nil {
		id, err := pki.New(simIdentities.secret, pki.Node{ID: name, Roles: []pki.Role{pki.Coordinator}})
		if err != nil {
			panic(err)
		}
		simIdentities.of[name] = id
	}
	return simIdentities.of[name]
}

// Members is what gossip tells this coordinator.
func (h *simHead) Members() []cluster.Member {
	var out []cluster.Member
	for _, id := range sortedKeys(h.view) {
		out = append(out, cluster.Member{NodeID: id, Meta: cluster.Meta{Roles: []pki.Role{pki.Shard}, GRPCAddr: h.view[id]}})
	}
	return out
}

// Changed is nothing: events tell the owner.
func (h *simHead) Changed() <-chan struct{} { return nil }

// boot starts the process, which knows nothing.
func (h *simHead) boot() {
	h.start()
	cfg := Default()
	cfg.Version, cfg.Number, cfg.Wishes, cfg.Place = "sim", h.number, h.s.wishes, h.s.place
	c := &Coordinator{
		cfg:  cfg,
		deps: Deps{Identity: h.id, Members: h, Model: h.s.model, Telemetry: telemetry.Nop(), Log: slog.New(slog.DiscardHandler)},
		jobs: make(chan *session, maxJobs), health: newHealth(), ended: make(chan struct{}),
	}
	h.o = newOwner(c)
	h.o.now, h.o.outside, h.o.draw = h.clock, h, h.w.rng.Uint64N
	h.o.forget()
	h.view, h.links, h.conns, h.carried, h.relays = map[string]string{}, nil, nil, nil, nil
	for _, sh := range h.s.shards {
		if sh.alive {
			h.hear(sh, sh.addr, h.w.between(20*time.Millisecond, 400*time.Millisecond))
		}
	}
	h.tick()
}

// hear has gossip tell this coordinator where a shard is; no address: it is gone.
// Older news does not replace newer.
func (h *simHead) hear(sh *simShard, addr string, after time.Duration) {
	h.after(after, func() {
		switch addr {
		case "":
			delete(h.view, sh.name)
		case sh.addr:
			h.view[sh.name] = addr
		}
		h.do(h.o.findNodes)
	})
}

func (h *simHead) tick() {
	h.do(func() { h.o.tick(h.clock()) })
	h.after(tickEvery, h.tick)
}

// post has the owner apply an event.
func (h *simHead) post(e event) { h.do(func() { e.apply(h.o) }) }

// do has something done by the owner, and carries off what comes of it.
func (h *simHead) do(f func()) {
	f()
	h.o.flush()
	for more := true; more; {
		select {
		case s := <-h.o.c.jobs:
			h.prepare(s)
		default:
			more = false
		}
	}
	for _, c := range h.conns {
		for _, m := range simDrain(c.shard.control) {
			if p := m.GetPlan(); p != nil {
				h.w.trace(h.simProc, "sends plan %#x to %s", p.Epoch, c.shard.link.node)
				h.s.plans++
			}
			c.control.send(m)
		}
	}
	for _, c := range h.carried {
		if c.drive == nil || !c.drive.open {
			continue
		}
		for _, m := range simDrain(c.pipe.drive) {
			c.drive.send(m)
		}
	}
	for _, r := range h.relays {
		if events := simDrain(r.relay.out); len(events) > 0 {
			r.end.send(events)
		}
	}
	for _, l := range h.links {
		l.hurried()
	}
}

// simDrain takes all that waits in a mailbox.
func simDrain[T any](m *mailbox[T]) []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	items := m.items
	m.items = nil
	return items
}

// prepare is a worker of prepareAll.
func (h *simHead) prepare(s *session) {
	h.work(h.w.between(100*time.Microsecond, 2*time.Millisecond), func() {
		p, err := h.o.c.deps.Model.prepare(s.request, s.positions)
		h.post(promptReady{s, p, err})
	})
}

// simLink is link.run.
type simLink struct {
	h       *simHead
	link    *link
	stopped bool
	conn    *simConn
	retry   time.Duration
	began   time.Duration
	waits   bool // for the next try
	try     int
}

// simConn is the connection of a shardConn.
type simConn struct {
	shard   *shardConn
	to      *simShard
	control *simEnd
	beat    *simWatch
	open    bool
	fail    func(error)
}

func (h *simHead) connect(l *link) context.CancelFunc {
	sl := &simLink{h: h, link: l, retry: minRetry}
	h.links = append(h.links, sl)
	h.after(0, sl.connect)
	return func() {
		sl.stopped = true
		h.links = slices.DeleteFunc(h.links, func(l *simLink) bool { return l == sl })
		if sl.conn != nil {
			h.after(0, func() { h.hangUp(sl.conn) })
		}
	}
}

func (l *simLink) connect() {
	if l.stopped {
		return
	}
	h := l.h
	l.waits, l.conn, l.began = false, nil, h.w.now
	l.try++
	h.s.hello(h.simProc, *l.link.addr.Load(), func(hello *pb.HelloResponse, to *simShard, err error) {
		if err == nil {
			err = l.link.check(hello)
		}
		switch {
		case l.stopped:
		case err != nil:
			l.down(nil, err)
		default:
			l.greeted(hello, to)
		}
	})
}

// greeted opens the connection's Control stream. Before the owner hears of it, the
// shard is asked for the speeds it knows.
func (l *simLink) greeted(hello *pb.HelloResponse, to *simShard) {
	h := l.h
	c := &simConn{shard: &shardConn{link: l.link, control: newMailbox[*pb.ControlRequest](maxControl)}, to: to, open: true}
	l.conn = c
	c.shard.hangUp = func() { h.after(0, func() { c.fail(errors.New("it was given up")) }) }
	c.control = h.w.dial(h.simProc, to.simProc, func(e *simEnd) { to.serveControl(e, h.name) })
	var broken error
	up := false
	fail := func(err error) {
		if broken == nil {
			if broken = err; up {
				l.down(c, err)
			}
		}
	}
	c.control.gone, c.fail = fail, fail
	c.control.got = func(m any) {
		if c.open && up {
			h.post(controlled{c.shard, m.(*pb.ControlResponse)})
		}
	}
	h.after(h.w.latency(h.simProc, to.simProc)*2, func() {
		if l.stopped {
			h.hangUp(c)
			return
		}
		h.conns = append(h.conns, c)
		up = true
		c.beat = h.w.watch(h.simProc, to.simProc, wire.LostAfter, fail)
		h.post(linkUp{c.shard, hello, []*pb.DeviceSpeed{{}}})
		if broken != nil {
			l.down(c, broken)
		}
	})
}

// hangUp closes a connection with all streams on it.
func (h *simHead) hangUp(c *simConn) {
	if !c.open {
		return
	}
	c.open = false
	if c.beat != nil {
		c.beat.done = true
	}
	c.control.reset("the connection is closing")
	h.conns = slices.DeleteFunc(h.conns, func(o *simConn) bool { return o == c })
	for _, k := range slices.Clone(h.carried) {
		if k.first == c || k.last == c {
			h.after(h.w.upTo(time.Millisecond), func() { k.fail(k.stageOf(c), errors.New("the connection is closing")) })
		}
	}
}

// down tells the owner that a connection broke or could not be made, and tries
// again.
func (l *simLink) down(c *simConn, err error) {
	h := l.h
	var shard *shardConn
	if c != nil {
		shard = c.shard
		h.hangUp(c)
	}
	l.conn = nil
	if l.stopped {
		return
	}
	if h.w.now-l.began > maxRetry {
		l.retry = minRetry
	}
	l.waits = true
	try := l.try
	h.after(l.retry/2+h.w.upTo(l.retry), func() {
		if l.waits && l.try == try {
			l.connect()
		}
	})
	l.retry = min(2*l.retry, maxRetry)
	h.w.trace(h.simProc, "link to %s: %v", l.link.node, err)
	h.post(linkDown{l.link, shard, err})
}

// hurried tries at once when the shard has moved.
func (l *simLink) hurried() {
	if !l.waits || l.stopped {
		return
	}
	select {
	case <-l.link.moved:
		l.waits, l.retry = false, minRetry
		l.h.after(0, l.connect)
	default:
	}
}

// simCarry is runPipeline.
type simCarry struct {
	h           *simHead
	pipe        *pipeline
	first, last *simConn
	drive       *simEnd
	results     *simEnd
	opened      bool
	done        bool
	heard       uint64 // the newest step
	next        map[uint32]int32
}

func (k *simCarry) stageOf(c *simConn) int {
	if k.first == c {
		return 0
	}
	return len(k.pipe.plan.Stages) - 1
}

func (h *simHead) carry(p *pipeline, first, last *shardConn) context.CancelFunc {
	k := &simCarry{h: h, pipe: p, next: map[uint32]int32{}}
	for _, c := range h.conns {
		if c.shard == first {
			k.first = c
		}
		if c.shard == last {
			k.last = c
		}
	}
	h.carried = append(h.carried, k)
	h.after(0, k.begin)
	return k.stop
}

func (k *simCarry) begin() {
	h := k.h
	if k.done {
		return
	}
	if k.first == nil || k.last == nil || !k.first.open || !k.last.open {
		k.fail(0, errors.New("the connection is closing"))
		return
	}
	name, key := h.name, k.pipe.plan.Key
	k.results = h.w.dial(h.simProc, k.last.to.simProc, func(e *simEnd) { k.last.to.serveResults(e, name, simKey(key)) })
	k.results.gone = func(err error) { k.fail(len(k.pipe.plan.Stages)-1, fmt.Errorf("result stream: %w", err)) }
	k.results.got = func(m any) {
		if k.done {
			return
		}
		if r, ok := m.(*frame.Result); ok {
			h.post(stepDone{key, k.seen(r)})
			return
		}
		k.opened = true
		h.post(pipelineUp{key})
	}
	k.drive = h.w.dial(h.simProc, k.first.to.simProc, func(e *simEnd) { k.first.to.serveDrive(e, name) })
	k.drive.gone = func(err error) { k.fail(0, fmt.Errorf("drive stream: %w", err)) }
	k.drive.got = func(m any) {
		if !k.done {
			h.post(driven{key, m.(*pb.DriveResponse)})
		}
	}
	k.drive.send(&pb.DriveRequest{Message: &pb.DriveRequest_Attach{Attach: &pb.DriveOpen{Epoch: key.Epoch, Pipeline: key.ID}}})
	h.after(attachTimeout, func() {
		if !k.opened {
			k.fail(len(k.pipe.plan.Stages)-1, fmt.Errorf("the streams did not open within %v", attachTimeout))
		}
	})
}

// seen is where ids that come a second time are taken for new ones, if that fault
// is planted.
func (k *simCarry) seen(r *frame.Result) *frame.Result {
	if k.h.w.bug != simDoubleCommit {
		return r
	}
	again := r.Step <= k.heard
	k.heard = max(k.heard, r.Step)
	c := *r
	c.Sampled = slices.Clone(r.Sampled)
	for i := range c.Sampled {
		s := &c.Sampled[i]
		if again {
			s.Position = k.next[s.Attempt]
		}
		k.next[s.Attempt] = s.Position + int32(len(s.IDs))
	}
	return &c
}

func (k *simCarry) fail(stage int, err error) {
	if k.done {
		return
	}
	h, key := k.h, k.pipe.plan.Key
	k.stop()
	h.w.trace(h.simProc, "pipeline %v at stage %d: %v", key, stage, err)
	h.after(0, func() { h.post(pipelineDown{key, stage, err}) })
}

func (k *simCarry) stop() {
	if k.done {
		return
	}
	k.done = true
	k.h.carried = slices.DeleteFunc(slices.Clone(k.h.carried), func(o *simCarry) bool { return o == k })
	for _, e := range []*simEnd{k.drive, k.results} {
		if e != nil {
			e.reset("the coordinator has left")
		}
	}
}

func (h *simHead) measure(_ *shardConn, _ bool, _ float64, answer func([]*pb.DeviceSpeed) event) {
	h.after(h.w.upTo(20*time.Millisecond), func() { h.post(answer(nil)) })
}

func (h *simHead) measureLinks(_ *shardConn, _ *pb.MeasureLinksRequest, answer func([]*pb.LinkSpeed) event) {
	h.after(h.w.upTo(20*time.Millisecond), func() { h.post(answer(nil)) })
}

// see: the simulator's model reads text alone.
func (h *simHead) see(*shardConn, plan.Key, []picture, func(error) event) context.CancelFunc {
	panic("a picture in the simulator")
}

func (h *simHead) afterwards(e event) { h.after(0, func() { h.post(e) }) }

// simRelay is server.Relay.
type simRelay struct {
	relay *relay
	end   *simEnd
}

func (h *simHead) serveRelay(e *simEnd, gateway string) {
	r := &simRelay{end: e}
	closed := func() {
		if r.relay.closed {
			return
		}
		h.relays = slices.DeleteFunc(slices.Clone(h.relays), func(o *simRelay) bool { return o == r })
		h.post(relayClosed{r.relay})
	}
	r.relay = &relay{node: gateway, out: newMailbox[*pb.Downward](maxDownward), sessions: map[uint64]*session{}, stop: func() {
		h.after(0, func() {
			e.close("the coordinator has ended the stream")
			closed()
		})
	}}
	e.got = func(m any) { h.post(upward{r.relay, m.([]*pb.Upward)}) }
	e.gone = func(error) { closed() }
	h.relays = append(h.relays, r)
	h.post(relayOpened{r.relay})
}
