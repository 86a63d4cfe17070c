package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// simGateway is a gateway: one relay to a coordinator that serves, and answers that
// outlive it. It does what services/gateway does in relay.go, generation.go and
// resubmit.go, where that lies between goroutines, and is told apart from them by
// nothing that a coordinator could see.
type simGateway struct {
	*simProc
	s       *simulation
	turn    int // of the coordinator that is tried next
	link    *simRelayLink
	number  uint64
	backoff time.Duration
	clients []*simClient
}

type simRelayLink struct {
	end  *simEnd
	beat *simWatch
	open map[uint64]*simClient
	lost bool
}

// Times of services/gateway.
const (
	simGrace      = 2 * time.Second
	simPatience   = 30 * time.Second
	simResubmit   = 100 * time.Millisecond
	simMinBackoff = 50 * time.Millisecond
	simMaxBackoff = 2 * time.Second
	simBarren     = 2
)

func (g *simGateway) boot() {
	g.start()
	g.backoff = simMinBackoff
	g.connect()
}

// connect asks the next coordinator whether it serves, and opens the relay to it
// if so: round robin over those that are healthy.
func (g *simGateway) connect() {
	h := g.s.heads[g.turn%len(g.s.heads)]
	g.turn++
	began := g.w.now
	over := false
	again := func(why error) {
		if over {
			return
		}
		over = true
		if g.w.now-began > simMaxBackoff {
			g.backoff = simMinBackoff
		}
		g.after(g.w.upTo(g.backoff)+simMinBackoff/2, g.connect)
		g.backoff = min(2*g.backoff, simMaxBackoff)
	}
	e := g.w.dial(g.simProc, h.simProc, func(e *simEnd) {
		if h.o.standing {
			e.close("not serving")
			return
		}
		h.serveRelay(e, g.name)
		e.send("serving")
	})
	e.gone = again
	e.got = func(any) {
		g.w.trace(g.simProc, "is connected to %s", h.name)
		l := &simRelayLink{end: e, open: map[uint64]*simClient{}}
		g.link = l
		broken := func(err error) {
			if l.lost {
				return
			}
			l.lost = true
			l.beat.done = true
			e.reset("the gateway has left")
			g.link = nil
			g.w.trace(g.simProc, "has lost %s: %v", h.name, err)
			again(err)
			for _, n := range simNumbers(l.open) {
				l.open[n].put(simError(simCoordinatorLost))
			}
		}
		e.gone = broken
		e.got = func(m any) {
			for _, d := range m.([]*pb.Downward) {
				if c := l.open[d.Number]; c != nil {
					c.put(d.Event)
				}
			}
		}
		l.beat = g.w.watch(g.simProc, h.simProc, wire.LostAfter, broken)
		for _, c := range g.clients {
			c.linked()
		}
	}
	g.after(5*time.Second, func() { // to connect takes no longer
		if !over && g.link == nil {
			e.reset("no connection")
			again(errors.New("no connection"))
		}
	})
}

// shut kills the process. Readers of plain sockets see theirs break.
func (g *simGateway) shut() {
	if !g.alive {
		return
	}
	g.kill()
	g.link = nil
	for _, c := range g.clients {
		if c.began && c.ended == "" {
			c.waits, c.box, c.reading = false, nil, false
			c.end("the gateway is gone")
		}
	}
}

func simNumbers(of map[uint64]*simClient) []uint64 {
	var out []uint64
	for n := range of {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// Codes of services/gateway.
const (
	simCoordinatorLost = "coordinator_lost"
	simNoCoordinator   = "no_coordinator"
	simPoison          = "request_crashes_coordinators"
)

func simError(code string) *pb.Event {
	return &pb.Event{Event: &pb.Event_Error{Error: &pb.Error{Code: code}}}
}

// simClient is one answer: what its reader has seen, and the tries to get it.
type simClient struct {
	g      *simGateway
	name   string
	prompt []int32
	seed   uint64
	most   int
	stops  []string
	golden simGolden
	window uint64        // tokens that may be under way
	pace   time.Duration // of the reader, for each event
	leave  int           // it leaves after so many tokens; -1 is never
	within time.Duration // the deadline; 0 is none

	began     bool
	accepted  *pb.Accepted
	ids       []int32
	times     []time.Duration // of tokens, once somebody wants to know
	text      string
	since     time.Duration // it is interrupted; -1 is not
	fruitless bool          // this try was accepted and gave no token yet
	barren    int
	lost      int // relays that broke under it

	link    *simRelayLink
	number  uint64
	granted uint64
	waits   bool // for a coordinator
	box     []*pb.Event
	reading bool
	ended   string // how; empty is not yet
}

// start has the reader ask, once there is a gateway to ask.
func (c *simClient) start() {
	if c.ended != "" {
		return
	}
	if !c.g.alive {
		c.g.w.after(500*time.Millisecond, c.start)
		return
	}
	c.g.after(0, c.once)
	c.began = true
}

// once tries to get the answer, or the rest of it.
func (c *simClient) once() {
	if c.ended != "" {
		return
	}
	c.waits = true
	if c.g.link != nil {
		c.linked()
		return
	}
	c.g.after(simGrace, func() {
		if c.waits {
			c.waits = false
			c.event(simError(simNoCoordinator))
		}
	})
}

// linked submits the answer once there is a coordinator.
func (c *simClient) linked() {
	if !c.waits {
		return
	}
	c.waits, c.fruitless = false, false
	l := c.g.link
	c.g.number++
	c.link, c.number, c.box = l, c.g.number, nil
	l.open[c.number] = c
	c.granted = uint64(len(c.ids)) + c.window
	l.end.send([]*pb.Upward{
		{Number: c.number, Message: &pb.Upward_Start{Start: c.request()}},
		{Number: c.number, Message: &pb.Upward_Credit{Credit: &pb.Credit{Seq: c.granted}}},
	})
}

func (c *simClient) request() *pb.Generation {
	r := &pb.Generation{
		SeedSet: true, Sampling: &pb.Sampling{Seed: c.seed, MaxTokens: int32(c.most)}, Stop: c.stops, Tenant: "t",
	}
	if c.within > 0 {
		r.DeadlineMs = c.g.clock().Add(c.within - c.g.w.now).UnixMilli()
	}
	if a := c.accepted; a != nil {
		c.g.s.tally.resubmitted++
		r.Input = &pb.Generation_Resumption{Resumption: &pb.Resumption{
			Id: a.Id, PromptIds: a.PromptIds, CommittedIds: slices.Clone(c.ids), Fingerprint: a.Fingerprint,
		}}
		return r
	}
	raw := make([]byte, len(c.prompt))
	for i, id := range c.prompt {
		raw[i] = byte(id)
	}
	r.Input = &pb.Generation_Raw{Raw: string(raw)}
	return r
}

// put gives the reader an event.
func (c *simClient) put(e *pb.Event) {
	if simTerminal(e) {
		delete(c.link.open, c.number)
	}
	if e.GetProgress() != nil {
		return // newer progress takes its place, and no reader here wants it
	}
	if len(c.box) > int(c.window)+2 {
		c.g.w.violate("%s was sent more than it may be", c.name)
	}
	c.box = append(c.box, e)
	if !c.reading {
		c.reading = true
		c.g.after(c.pace, c.read)
	}
}

func simTerminal(e *pb.Event) bool {
	return e.GetComplete() != nil || e.GetStopped() != nil || e.GetError() != nil
}

func (c *simClient) read() {
	c.reading = false
	if c.ended != "" || len(c.box) == 0 {
		return
	}
	e := c.box[0]
	c.box = c.box[1:]
	c.event(e)
	if len(c.box) > 0 && c.ended == "" {
		c.reading = true
		c.g.after(c.pace, c.read)
	}
}

// event is what services/gateway's attempts do with an event, and then the reader.
func (c *simClient) event(e *pb.Event) {
	w := c.g.w
	switch {
	case e.GetAccepted() != nil:
		if a := e.GetAccepted(); c.accepted != nil && (a.Seed != c.seed || !slices.Equal(a.PromptIds, c.accepted.PromptIds)) {
			w.violate("%s goes on as another request", c.name)
		}
		c.accepted, c.since, c.fruitless = e.GetAccepted(), -1, true
	case e.GetToken() != nil:
		c.token(e.GetToken())
	case simTerminal(e):
		c.terminal(e)
	}
}

// token holds a token against the golden run.
func (c *simClient) token(t *pb.Token) {
	w := c.g.w
	c.fruitless, c.barren = false, 0
	at := len(c.ids)
	switch {
	case c.accepted == nil:
		w.violate("%s has a token before it was accepted", c.name)
	case t.Seq != uint64(at)+1:
		w.violate("%s has token %d where token %d was due", c.name, t.Seq, at+1)
	case at >= len(c.golden.ids) || t.Id != c.golden.ids[at]:
		w.violate("%s has id %d as token %d; the undisturbed answer is %v", c.name, t.Id, at+1, c.golden.ids)
	}
	c.g.s.tally.tokens++
	c.ids, c.text = append(c.ids, t.Id), c.text+t.GetDelta().GetContent()
	if c.times != nil {
		c.times = append(c.times, w.now)
	}
	if w.say != nil {
		w.trace(c.g.simProc, "%s has token %d", c.name, len(c.ids))
	}
	if len(c.ids) == c.leave {
		c.stop()
		return
	}
	if c.granted-uint64(len(c.ids)) <= c.window/2 {
		c.granted = uint64(len(c.ids)) + c.window
		c.up(&pb.Upward{Number: c.number, Message: &pb.Upward_Credit{Credit: &pb.Credit{Seq: c.granted}}})
	}
}

func (c *simClient) up(m *pb.Upward) {
	if c.link != nil && !c.link.lost {
		c.link.end.send([]*pb.Upward{m})
	}
}

// stop leaves.
func (c *simClient) stop() {
	if c.ended != "" {
		return
	}
	c.end("stopped: client")
	if c.link != nil {
		delete(c.link.open, c.number)
	}
	c.waits, c.box = false, nil
	c.up(&pb.Upward{Number: c.number, Message: &pb.Upward_Stop{Stop: &pb.Stop{Reason: "client"}}})
}

func (c *simClient) end(how string) {
	if c.ended != "" {
		c.g.w.violate("%s has ended twice: %s, %s", c.name, c.ended, how)
	}
	c.ended = how
	c.g.w.trace(c.g.simProc, "%s has ended with %d tokens: %s", c.name, len(c.ids), how)
	if c.g.s.ended++; c.g.s.ended == len(c.g.s.clients) {
		c.g.s.last = c.g.w.now
	}
}

func (c *simClient) terminal(e *pb.Event) {
	w, code := c.g.w, e.GetError().GetCode()
	if code == simCoordinatorLost {
		c.lost++
	}
	switch {
	case e.GetComplete() != nil:
		c.complete(e.GetComplete())
		return
	case c.interrupts(e):
		c.interrupted(code)
		return
	case c.accepted == nil && (code == simNoCoordinator || code == codeNoCapacity || code == codeLoading || code == codeRateLimit):
		c.g.after(300*time.Millisecond, c.once) // its reader asks again
		return
	}
	if s := e.GetStopped(); s != nil {
		if s.Reason != "deadline" || c.within == 0 || c.g.w.now < c.within-c.g.s.skewed-time.Millisecond {
			w.violate("%s was stopped: %s", c.name, s.Reason)
		}
		c.end("stopped: " + s.Reason)
		return
	}
	c.failed(code, e.GetError().GetMessage())
}

func (c *simClient) interrupts(e *pb.Event) bool {
	if e.GetStopped().GetReason() == "drain" {
		return true
	}
	switch e.GetError().GetCode() {
	case simCoordinatorLost:
		return true
	case simNoCoordinator, codeNoCapacity, codeLoading:
		return c.since >= 0
	}
	return false
}

func (c *simClient) interrupted(code string) {
	if c.fruitless && code == simCoordinatorLost {
		c.barren++
	}
	if c.barren >= simBarren {
		c.failed(simPoison, "coordinators were lost each time they had accepted it")
		return
	}
	if c.since < 0 {
		c.since = c.g.w.now
	}
	if c.g.w.now-c.since >= simPatience {
		c.failed(simCoordinatorLost, "no coordinator went on with it in time")
		return
	}
	c.g.after(simResubmit, c.once)
}

// complete holds the whole answer against the golden run.
func (c *simClient) complete(e *pb.Complete) {
	text := c.text + e.GetText()
	switch {
	case len(c.ids) != len(c.golden.ids):
		c.g.w.violate("%s is complete with %d tokens of %d", c.name, len(c.ids), len(c.golden.ids))
	case e.GetFinishReason() != c.golden.finish:
		c.g.w.violate("%s is complete by %s, undisturbed by %s", c.name, e.GetFinishReason(), c.golden.finish)
	case text != c.golden.text:
		c.g.w.violate("%s has the text %q, undisturbed %q", c.name, text, c.golden.text)
	}
	c.end("complete: " + e.GetFinishReason())
}

// failed judges an answer that was given up: only what the faults of this run
// explain may be.
func (c *simClient) failed(code, message string) {
	how := fmt.Sprintf("error: %s: %s", code, message)
	s := c.g.s
	switch {
	case code == codePoison && s.deaths >= maxDeaths:
	case code == simPoison && c.lost >= simBarren:
	default:
		s.violate("%s: %s", c.name, how)
	}
	s.givenUp++
	c.end(how)
}
