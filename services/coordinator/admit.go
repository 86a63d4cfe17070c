package coordinator

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/pkg/compute"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// maxID is the longest id of a generation, in bytes.
const maxID = 128

var errSlowDriver = errors.New("the driver does not keep up")

// waiting are the sessions without a slot: those whose prompt is being made, and
// a first-in, first-out queue of those whose prompt is ready.
type waiting struct {
	preparing map[*session]bool
	queue     []*session
	tokens    int // prompts of the queue
}

func (w *waiting) len() int { return len(w.preparing) + len(w.queue) }

// each calls f for every session; f may remove it.
func (w *waiting) each(f func(*session)) {
	byArrival := func(a, b *session) int {
		return cmp.Or(a.began.Compare(b.began), cmp.Compare(a.relay.node, b.relay.node), cmp.Compare(a.number, b.number))
	}
	for _, s := range slices.SortedFunc(maps.Keys(w.preparing), byArrival) {
		f(s)
	}
	for _, s := range slices.Clone(w.queue) {
		f(s)
	}
}

func (w *waiting) remove(s *session) {
	delete(w.preparing, s)
	if i := slices.Index(w.queue, s); i >= 0 {
		w.queue = slices.Delete(w.queue, i, i+1)
		w.tokens -= len(s.ready.prompt)
	}
}

// begin takes a request in, or says why not.
func (o *owner) begin(r *relay, number uint64, g *pb.Generation) {
	s := &session{relay: r, number: number, request: g, began: o.now(), id: "gen-" + rand.Text()}
	if ms := g.GetDeadlineMs(); ms != 0 {
		s.deadline = time.UnixMilli(ms)
	}
	r.sessions[number] = s
	o.keep(s)
	s.picture = pictureBytes(g)
	o.pictures += s.picture
	o.journal.totals.requests++
	o.phase(s, telemetry.SpanQueue, o.c.deps.Telemetry.RequestWaiting)
	if p := o.refusal(g); p != nil {
		o.fail(s, p)
		return
	}
	if !s.deadline.IsZero() && !s.began.Before(s.deadline) {
		o.stop(s, generation.ReasonTimeout)
		return
	}
	s.positions = o.context
	select {
	case o.c.jobs <- s:
	default:
		o.fail(s, later(codeRateLimit, "Too many requests arrive at once."))
		return
	}
	o.waiting.preparing[s] = true
}

// refusal says why a request cannot be taken in; nil says that it can.
func (o *owner) refusal(g *pb.Generation) *problem {
	m := &o.c.deps.Model
	if name := g.GetModel(); name != "" && name != m.Name && !slices.Contains(o.c.cfg.Aliases, name) && m.adapter(name) == nil {
		return &problem{Code: codeNotFound, Param: "model", Message: fmt.Sprintf("There is no model %s; served is %q%s.", shorten(name), m.Name, m.adapterNames())}
	}
	if code, text := o.reason(); code != "" && !(code == codeLoading && o.context > 0) { // else it waits until answers go on
		return later(code, "No answer is possible at the moment: %s.", text)
	}
	if n := o.waiting.len(); n >= o.c.cfg.MaxWaiting {
		return later(codeRateLimit, "%d requests are waiting already.", n)
	}
	if wait := o.turns.wait(len(o.waiting.queue)); wait > o.c.cfg.MaxWait*3/4 { // what may come in between
		p := later(codeRateLimit, "%d requests are waiting already: a place is likely to be free in %v.", len(o.waiting.queue), wait.Round(time.Second))
		p.RetryAfter = wait - o.c.cfg.MaxWait + time.Second
		return p
	}
	if o.pictures > maxPictureBytes {
		return later(codeRateLimit, "Requests with pictures of more than %d MiB are here already.", maxPictureBytes>>20)
	}
	return nil
}

// shorten quotes a client's text for a message.
func shorten(text string) string {
	const most = 64
	if len(text) > most {
		return fmt.Sprintf("%q…", text[:most])
	}
	return fmt.Sprintf("%q", text)
}

// promptReady says that a worker has made a session's prompt.
type promptReady struct {
	s   *session
	p   *prepared
	err error
}

func (e promptReady) apply(o *owner) {
	s := e.s
	delete(o.waiting.preparing, s)
	if s.done {
		return
	}
	var p *problem
	switch {
	case errors.As(e.err, &p):
		o.fail(s, p)
		return
	case e.err != nil:
		o.fail(s, later(generation.CodeInternal, "The prompt could not be made: %v.", e.err))
		return
	}
	s.ready = e.p
	if s.request.GetTokenize() {
		o.tokenized(s)
		return
	}
	if n := len(s.ready.prompt); len(o.waiting.queue) > 0 && o.waiting.tokens+n > o.c.cfg.MaxWaitingTokens {
		o.fail(s, later(codeRateLimit, "Prompts of %d tokens are waiting already.", o.waiting.tokens))
		return
	}
	o.waiting.queue = append(o.waiting.queue, s)
	o.waiting.tokens += len(s.ready.prompt)
	o.admit()
}

// nextUp returns the waiting session whose turn it is: an interrupted one, or
// else the first of the tenant that has the fewest places. Those that shards may
// have died of come last of the interrupted ones, and only one at a time is
// tried. None may be placed now: nil.
func (o *owner) nextUp() *session {
	places, trial := map[string]int{}, false
	for _, s := range o.running { // in any order
		places[s.request.GetTenant()]++
		trial = trial || s.recovery.suspect() && !s.sampled
	}
	var best, suspect *session
	for _, s := range o.waiting.queue {
		switch {
		case s.recovery.suspect():
			if suspect == nil && !trial {
				suspect = s
			}
		case s.recovery.waiting():
			return s
		case best == nil || places[s.request.GetTenant()] < places[best.request.GetTenant()]:
			best = s
		}
	}
	if suspect != nil {
		return suspect
	}
	return best
}

// admit gives slots to the sessions that wait, each tenant in turn, and
// tells the others their place. Then sessions leave pipelines that retire.
func (o *owner) admit() {
	for len(o.waiting.queue) > 0 {
		s := o.nextUp()
		if s == nil {
			break
		}
		p := o.choose(s)
		if p == nil {
			break
		}
		o.waiting.remove(s)
		o.turns.placed(o.now(), len(o.waiting.queue) > 0)
		o.place(s, p)
	}
	if len(o.waiting.queue) > 0 {
		o.turns.waits(o.now())
	}
	for i, s := range o.waiting.queue {
		if s.announced != i+1 && !s.recovery.waiting() {
			s.announced = i + 1
			o.progress(s, "queued", int64(i), int64(len(o.waiting.queue)))
		}
	}
	o.leave()
}

// pages are those of the prompt and the longest answer.
func (p *prepared) pages() int { return p.kv.Pages(len(p.prompt) + int(p.spec.MaxTokens)) }

// fits checks a prompt again, against a plan that may have come after it was
// made.
func (p *prepared) fits(context int) *problem {
	if n := len(p.prompt) + int(p.spec.MaxTokens); n > context {
		return &problem{Code: codeTooLong, Param: "messages",
			Message: fmt.Sprintf("Prompt and answer may take %d tokens; the context has %d now.", n, context), Retryable: true}
	}
	return nil
}

// place starts a session on a pipeline, or has it go on there. Everything its
// answer is a function of is fixed the first time.
func (o *owner) place(s *session, on *pipeline) {
	if err := s.ready.fits(on.plan.Context); err != nil {
		o.fail(s, err)
		return
	}
	if s.machine != nil {
		o.goOn(s, on)
		return
	}
	p := s.ready
	s.placed = o.now()
	if !s.request.GetSeedSet() {
		p.spec.Seed = drawSeed()
	}
	if r := s.request.GetResumption(); r != nil {
		if r.GetId() != "" {
			s.id = r.GetId()
		}
		if f := r.GetFingerprint(); f != "" && f != on.fingerprint {
			p.notes = append(p.notes, noteOtherClass)
		}
	}
	s.machine = generation.New(generation.Config{
		Prompt: len(p.prompt), Committed: p.committed, MaxTokens: int(p.spec.MaxTokens), Stops: s.request.GetStop(),
		Deadline: s.deadline, Detokenizer: o.c.deps.Model.Text.Detokenizer(),
	})
	s.follow(&o.c.deps.Model)
	o.accept(s, on)
	actions := s.machine.Start()
	if !s.machine.Done() {
		o.take(s, on)
		o.look(s)
		o.phase(s, telemetry.SpanPrefill, o.c.deps.Telemetry.RequestStarted)
		actions = s.machine.Step(generation.Credit{Seq: s.credit})
	}
	o.act(s, actions)
}

// take reserves a slot and pages. The attempt is never used again.
func (o *owner) take(s *session, p *pipeline) {
	o.recall(s)
	o.attempts++
	s.attempt, s.pipe, s.sampled, s.orphaned = o.attempts, p, false, time.Time{}
	p.prefixes.add(s.ready.chain)
	s.place = p.take(s.attempt, s.ready.pages(), len(s.ready.prompt)+s.machine.Committed())
	o.running[s.attempt] = s
}

func (o *owner) accept(s *session, on *pipeline) {
	p := s.ready
	s.recovery.fingerprint = on.fingerprint
	a := &pb.Accepted{
		Id: s.id, Model: cmp.Or(p.adapterName, o.c.deps.Model.Name), PromptIds: p.prompt, Seed: p.spec.Seed, Fingerprint: on.fingerprint,
		Precision: o.c.deps.Model.Precision, MaxTokens: uint32(p.spec.MaxTokens), Notes: o.c.deps.Model.warned(p.notes),
	}
	for _, s := range p.pictures {
		a.Pictures = append(a.Pictures, &pb.PromptPicture{Start: s.Start, Count: s.Count, Hash: s.Hash[:]})
	}
	for _, st := range on.plan.Stages {
		a.Route = append(a.Route, st.String())
	}
	o.send(s, &pb.Event{Event: &pb.Event_Accepted{Accepted: a}})
}

// drawSeed returns a seed that JSON readers keep exactly: below 2^53.
func drawSeed() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:]) >> 11
}

// fingerprint names everything that fixes the bits of answers besides the
// request: the model's file and adapters, its precision, the KV class, the numerics class of every layer,
// and the program's version. Within one class it does not matter where the
// layers are cut.
func fingerprint(m *Model, p *plan.Pipeline, version string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%x\n%s\n%s\n", m.Digest, m.Precision, version)
	if m.KV != (compute.KVClass{}) {
		fmt.Fprintf(h, "kv %s\n", m.KV)
	}
	for _, a := range m.Adapters {
		fmt.Fprintf(h, "adapter %s\n", a.ID)
	}
	for i, s := range p.Stages {
		if i == 0 || s.Class != p.Stages[i-1].Class || string(s.Fingerprint) != string(p.Stages[i-1].Fingerprint) {
			fmt.Fprintf(h, "%d %s %x\n", s.Part.First, s.Class, s.Fingerprint)
		}
	}
	return "fp-" + hex.EncodeToString(h.Sum(nil)[:8])
}
