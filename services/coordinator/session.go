package coordinator

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
)

// closedGrace is how long a session whose slot the driver has closed may wait
// for the result that says why: it comes by another stream.
// It is longer than it takes to notice that the way of results is cut, which ends
// the pipeline.
const closedGrace = 2 * wire.LostAfter

// reasonFinished is the driver's reason for a session whose end was sampled.
const reasonFinished = "finished"

// commitEvery is how many positions are committed before the driver hears of it:
// few messages, and credit in time.
const commitEvery = generation.Ahead / 4

// maxTraceparent bounds a trace context, which has 55 bytes in its version 00.
const maxTraceparent = 128

// session is one generation. The owner holds it; request and positions do not
// change after it was made.
type session struct {
	relay     *relay // a closed one: no gateway has it
	number    uint64 // the gateway's
	kept      *kept  // nil: it ends with its gateway
	request   *pb.Generation
	positions int // the longest context it may have

	id        string
	began     time.Time // the request arrived
	placed    time.Time // it got its slot
	first     time.Time // its first token left
	last      time.Time // its last token left
	deadline  time.Time // zero is none
	credit    uint64
	ready     *prepared // nil until its prompt is made
	machine   *generation.Machine
	calls     *calls    // of an answer that may call tools; else nil
	pipe      *pipeline // nil while it has no slot
	place     frame.Slot
	attempt   uint32
	sampled   bool      // this attempt gave an id
	told      int32     // committed positions that the driver knows of
	orphaned  time.Time // its slot was closed under it; zero is not
	finished  bool      // because the last stage has sampled its end
	why       string    // the driver's reason for that
	cached    int
	announced int // its place in the queue, as the client knows it
	recovery  recovery
	scout     *scout             // computes its text where it will move to; nil is none
	scouted   bool               // that was done, since it got its slot
	lookAway  context.CancelFunc // ends the look at its pictures; nil: the driver has the session, or nobody
	unseen    int                // times that rows of its pictures got lost
	picture   int                // bytes of its pictures
	done      bool

	span    telemetry.Span // of the present phase
	spanned bool
	count   func() // ends its part of a gauge
}

// phase ends the session's span and gauge, and begins others; an empty name
// begins none.
func (o *owner) phase(s *session, name string, gauge func() func()) {
	if s.spanned {
		s.span.End()
		s.spanned = false
	}
	if name != "" {
		parent := telemetry.Extract(context.Background(), s.request.GetTraceparent())
		_, s.span = o.c.deps.Telemetry.Start(parent, name)
		s.spanned = true
	}
	if gauge == nil && name != "" {
		return // the gauge goes on
	}
	if s.count != nil {
		s.count()
		s.count = nil
	}
	if gauge != nil {
		s.count = gauge()
	}
}

// sampled gives a session what a step sampled for it. The owner finds it by
// attempt, which is never used twice: what comes for others is discarded.
func (o *owner) sampled(p *pipeline, r *frame.Sampled) {
	s := o.running[r.Attempt]
	if s == nil || s.pipe != p || s.place != r.Slot {
		return
	}
	if !s.sampled {
		s.sampled, s.recovery.doubted = true, nil
		p.computed(s, 0)
		if s.recovery.suspect() { // it is cleared; the next may be tried
			s.recovery.deaths = nil
			defer o.admit()
		}
	}
	switch {
	case s.request.GetPooling() != 0 && r.Err == "":
		o.embedding(s, r)
	default:
		o.act(s, s.machine.Step(generation.Sampled(*r)))
	}
}

// act does what a generation machine asks for.
func (o *owner) act(s *session, actions []generation.Action) {
	for i, a := range actions {
		switch a := a.(type) {
		case generation.Token:
			o.token(s, a, completes(actions[i+1:]))
		case generation.Commit:
			if a.Length < s.told+commitEvery {
				continue
			}
			s.told = a.Length
			o.drive(s.pipe, &pb.DriveRequest{Message: &pb.DriveRequest_Commit{Commit: &pb.Commit{
				Slot: uint32(s.place), Attempt: s.attempt, Length: a.Length,
			}}})
		case generation.Halt:
			o.halt(s)
		case generation.Complete:
			c := s.complete(a)
			if s.request.GetReportMemory() && s.pipe != nil {
				_, c.Memory = o.speedAndMemory(s.pipe)
			}
			o.end(s, &pb.Event{Event: &pb.Event_Complete{Complete: c}})
		case generation.Stopped:
			o.end(s, s.stopped(a.Reason))
		case generation.Failed:
			p := problem(a)
			o.end(s, p.event())
		}
	}
}

// completes reports whether the answer is complete with what comes next.
func completes(next []generation.Action) bool {
	for _, a := range next {
		switch a.(type) {
		case generation.Token:
			return false
		case generation.Complete:
			return true
		}
	}
	return false
}

// token sends a token; last says that the answer ends with it.
func (o *owner) token(s *session, t generation.Token, last bool) {
	s.last = o.now()
	if s.first.IsZero() {
		s.first = s.last
		o.phase(s, telemetry.SpanDecode, nil)
	}
	o.c.deps.Telemetry.AddTokens(telemetry.Generated, 1)
	o.journal.totals.generatedTokens++
	out := &pb.Token{Seq: t.Seq, Id: t.ID, Last: last, Delta: s.delta(t.Text)}
	if t.LogProb != nil {
		out.Logprob = &pb.LogProb{Logprob: t.LogProb.LogProb}
		for _, alt := range t.LogProb.Top {
			out.Logprob.Top = append(out.Logprob.Top, &pb.TopLogProb{
				Id: alt.ID, Logprob: alt.LogProb, Text: o.c.deps.Model.Text.Token(alt.ID),
			})
		}
	}
	o.send(s, &pb.Event{Event: &pb.Event_Token{Token: out}})
}

// halt tells the driver that no step shall contain the session any more. A
// session without a slot, or whose driver is gone, has nothing to halt.
func (o *owner) halt(s *session) {
	if s.pipe == nil || o.abandon(s) || !s.pipe.has(s.place, s.attempt) {
		return
	}
	o.drive(s.pipe, &pb.DriveRequest{Message: &pb.DriveRequest_Halt{Halt: &pb.Halt{Slot: uint32(s.place), Attempt: s.attempt}}})
}

// drive queues a message to a driver. A driver that takes none is lost.
func (o *owner) drive(p *pipeline, m *pb.DriveRequest) {
	if p == nil || p.full || p.drive.put(m) {
		return
	}
	p.full = true
	o.outside.afterwards(pipelineDown{p.plan.Key, 0, errSlowDriver})
}

// prefilled notes how much of a prompt is computed.
func (o *owner) prefilled(p *pipeline, m *pb.Prefilled) {
	s := o.running[m.GetAttempt()]
	if s == nil || s.pipe != p {
		return
	}
	if s.recovery.times == 0 { // later ones are its own
		s.cached = max(s.cached, int(m.GetCached()))
	}
	p.computed(s, int(m.GetTotal()-m.GetDone()))
	o.progress(s, "prefill", int64(m.GetDone()), int64(m.GetTotal()))
}

// slotClosed frees a slot: no stage holds anything of its session.
func (o *owner) slotClosed(p *pipeline, c *pb.Closed) {
	if !p.release(frame.Slot(c.GetSlot()), c.GetAttempt()) {
		return
	}
	o.scoutDone(c.GetAttempt())
	if s := o.running[c.GetAttempt()]; s != nil && s.pipe == p && c.GetReason() == "unseen" {
		o.unseen(s)
	} else if s != nil && s.pipe == p {
		s.orphaned, s.finished = o.now(), c.GetReason() == reasonFinished
		s.why = strings.TrimSuffix(c.GetReason()+": "+c.GetDetail(), ": ")
		if c.GetReason() == "refused" { // no result will tell
			o.fail(s, later(generation.CodeInternal, "The pipeline refused the request: %s.", c.GetDetail()))
		}
	}
	o.admit()
}

// expire ends what has waited or run too long.
func (o *owner) expire(now time.Time) {
	again := false
	for _, s := range o.placed() {
		o.act(s, s.machine.Step(generation.Tick{Now: now}))
		if s.done || s.orphaned.IsZero() || now.Sub(s.orphaned) <= closedGrace || s.machine.Finishing() {
			continue
		}
		if s.finished { // the ids that ended it were lost on their way: they are sampled again
			o.requeue(s)
			again = true
			continue
		}
		o.fail(s, later(generation.CodeInternal, "The pipeline gave the answer up (%s).", s.why))
	}
	if again {
		o.admit()
	}
	o.waiting.each(func(s *session) {
		switch {
		case !s.deadline.IsZero() && !now.Before(s.deadline):
			o.stop(s, generation.ReasonTimeout)
		case s.recovery.waiting():
			o.expireRecovery(s, now)
		case now.Sub(s.began) > o.c.cfg.MaxWait:
			o.fail(s, later(codeNoCapacity, "The request waited %v for a free place.", o.c.cfg.MaxWait))
		}
	})
}

// fail ends a session with an error.
func (o *owner) fail(s *session, p *problem) {
	switch {
	case s.done:
	case s.machine != nil:
		o.act(s, s.machine.Step(generation.Fail(*p)))
	default:
		o.end(s, p.event())
	}
}

// stop ends a session that somebody wants no more of.
func (o *owner) stop(s *session, reason string) {
	switch {
	case s.done:
	case s.machine != nil:
		o.act(s, s.machine.Step(generation.Stop{Reason: reason}))
	default:
		o.end(s, s.stopped(reason))
	}
}

// end sends the one terminal of a session and forgets it. Its slot stays taken
// until the driver has closed it.
func (o *owner) end(s *session, terminal *pb.Event) {
	if s.done {
		return
	}
	o.send(s, terminal)
	if terminal.GetError() != nil {
		o.journal.totals.failed++
	}
	s.done = true
	o.recall(s)
	o.pictures -= s.picture
	o.phase(s, "", nil)
	delete(s.relay.sessions, s.number)
	delete(o.running, s.attempt)
	o.waiting.remove(s)
	o.emptied(s.pipe)
}

func (s *session) stopped(reason string) *pb.Event {
	return &pb.Event{Event: &pb.Event_Stopped{Stopped: &pb.Stopped{Reason: reason, Usage: s.usage(), Timings: s.timings()}}}
}

func (s *session) usage() *pb.Usage {
	u := &pb.Usage{CachedTokens: uint32(s.cached)}
	if s.ready != nil {
		u.PromptTokens = uint32(len(s.ready.prompt))
	}
	if s.machine != nil {
		u.CompletionTokens = uint32(s.machine.Committed())
	}
	return u
}

func (s *session) timings() *pb.Timings {
	t := &pb.Timings{}
	ms := func(from, to time.Time) float64 {
		if from.IsZero() || to.IsZero() {
			return 0
		}
		return float64(to.Sub(from)) / float64(time.Millisecond)
	}
	t.QueueMs, t.PromptMs, t.PredictedMs = ms(s.began, s.placed), ms(s.placed, s.first), ms(s.first, s.last)
	return t
}

// opening is the session as the stages are told of it, in a slot.
func (s *session) opening(place frame.Slot, attempt uint32) *frame.Open {
	p := s.ready
	open := &frame.Open{
		Slot: place, Attempt: attempt, Session: s.id, PrefixSalt: salt(s.request.GetTenant()),
		Sampling: p.spec, AnswerStart: int32(len(p.prompt)), Pooling: p.pooling,
		Grammar: p.grammar, Pictures: p.shown(), Adapter: p.adapter,
		// No deadline goes along: it is kept here, by one clock.
	}
	if t := s.request.GetTraceparent(); len(t) <= maxTraceparent {
		open.Traceparent = t
	}
	return open
}

// submit gives a session to the driver.
func (o *owner) submit(s *session) {
	p := s.ready
	open := s.opening(s.place, s.attempt)
	ids := slices.Concat(p.prompt, s.machine.IDs())
	s.told = int32(len(ids))
	o.drive(s.pipe, &pb.DriveRequest{Message: &pb.DriveRequest_Submit{Submit: &pb.Submit{
		Open: wire.OpenToProto(open), Tokens: ids, Ahead: generation.Ahead, Scheduling: s.request.GetScheduling(),
	}}})
	if s.recovery.times == 0 {
		o.c.deps.Telemetry.AddTokens(telemetry.Prompt, len(p.prompt))
		o.journal.totals.promptTokens += uint64(len(p.prompt))
	}
}

// salt keeps the prefixes of tenants apart.
func salt(tenant string) []byte {
	if tenant == "" {
		return nil
	}
	h := sha256.Sum256([]byte(tenant))
	return h[:]
}

// progress says how far a session is, when nothing else can be said.
func (o *owner) progress(s *session, phase string, done, total int64) {
	o.send(s, &pb.Event{Event: &pb.Event_Progress{Progress: &pb.Progress{Phase: phase, Done: done, Total: total}}})
}

// send queues an event for the session's gateway until the end of this step.
func (o *owner) send(s *session, e *pb.Event) {
	switch {
	case s.done:
	case s.kept != nil:
		o.record(s.kept, e)
	default:
		o.post(s.relay, s.number, e)
	}
}

// post queues an event for a gateway until the end of this step.
func (o *owner) post(r *relay, number uint64, e *pb.Event) {
	o.postDown(r, &pb.Downward{Number: number, Event: e})
}

func (o *owner) postDown(r *relay, m *pb.Downward) {
	if r.closed {
		return
	}
	if len(r.batch) == 0 {
		o.dirty = append(o.dirty, r)
	}
	r.batch = append(r.batch, m)
}

// flush hands what was sent during a step to the gateways' streams, a step's
// events in one piece.
func (o *owner) flush() {
	for _, r := range o.dirty {
		if !r.out.put(r.batch...) {
			o.log.Warn("gateway is too slow", "gateway", r.node)
			r.stop()
		}
		r.batch = nil
	}
	o.dirty = o.dirty[:0]
}
