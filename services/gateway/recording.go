package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Bounds of one recording.
const (
	maxUnsent      = 512      // tokens that its reader has not taken
	maxUnsentBytes = 64 << 10 // of their text
	pieceOverhead  = 16       // what a token costs besides its text
	maxBatch       = 512      // tokens taken at once

	detachedFor = 60 * time.Second  // how long a lost reader's answer is computed on
	keptFor     = 120 * time.Second // how long a lost reader may fetch it
)

// errDetached ends an answer whose reader did not come back.
var errDetached = errors.New("the client was lost and did not come back")

// reasonDisconnected is how such an answer says that it was stopped.
const reasonDisconnected = "disconnected"

// reader shows recordings to a client. Its methods are called without locks.
type reader interface {
	wake(r *recording)     // something may be taken
	released(r *recording) // another reader has it now
	moved(r *recording)    // it goes on at another gateway
}

// entry is one committed token as a recording keeps it.
type entry struct {
	text     string
	id       int32
	last     bool
	thinking bool // the text is reasoning
	call     *pb.ToolCall
	logprob  *pb.LogProb
}

func entryOf(t *pb.Token) entry {
	e := entry{id: t.GetId(), last: t.GetLast(), logprob: t.GetLogprob()}
	switch d := t.GetDelta().GetDelta().(type) {
	case *pb.Delta_Content:
		e.text = d.Content
	case *pb.Delta_Reasoning:
		e.text, e.thinking = d.Reasoning, true
	case *pb.Delta_ToolCall:
		e.call = d.ToolCall
	}
	return e
}

func (e entry) size() int { return len(e.text) + len(e.call.GetArguments()) + pieceOverhead }

// recording is one answer of the rich protocol between the goroutine that
// receives it and the reader that shows it. What the reader has not taken is
// bounded by maxUnsent: beyond it the goroutine waits, so its credit runs out
// and the generation pauses. A resumable recording also keeps what a reader
// that is lost may have to be shown again: all that was not acknowledged, and
// some tokens before.
//
// A recording is safe for concurrent use.
type recording struct {
	id        string // the client's
	requestID string
	tenant    string
	resumable bool
	show      showing
	stop      context.CancelCauseFunc // ends the generation
	forget    func()                  // called once, when nobody may ask for it any more

	room chan struct{} // holds a token after something was taken

	mu           sync.Mutex // guards following
	reader       reader     // nil: detached
	keep         int        // acknowledged tokens that are kept
	accepted     *pb.Accepted
	acceptedSent bool
	progress     *pb.Progress // the newest that was not taken; came after accepted
	tokens       []entry      // with the numbers base+1, base+2, …
	base         uint64
	sent, acked  uint64 // numbers of tokens
	unsentBytes  int
	terminal     *pb.Event
	terminalSent bool
	timer        *time.Timer // while detached
	detachments  int         // tells an old timer from the present one
	closing      bool        // a detachment ends it at once
	forgotten    bool
}

// newRecording returns a recording that r reads.
func newRecording(id, requestID, tenant string, show showing, r reader, keep int) *recording {
	return &recording{
		id: id, requestID: requestID, tenant: tenant, show: show, reader: r, keep: keep,
		stop: func(error) {}, forget: func() {}, room: make(chan struct{}, 1),
	}
}

// put adds an event. A token waits for room, or for the end of ctx.
func (r *recording) put(ctx context.Context, e *pb.Event) {
	if e.GetToken() != nil {
		r.awaitRoom(ctx)
	}
	r.mu.Lock()
	switch ev := e.GetEvent().(type) {
	case *pb.Event_Accepted:
		r.accepted, r.progress = ev.Accepted, nil // what was queued is not any more
	case *pb.Event_Progress:
		r.progress = newer(r.progress, e).GetProgress()
	case *pb.Event_Token:
		t := entryOf(ev.Token)
		r.tokens = append(r.tokens, t)
		r.unsentBytes += t.size()
	default:
		if s := e.GetStopped(); s != nil && errors.Is(context.Cause(ctx), errDetached) {
			s.Reason = reasonDisconnected
		}
		r.terminal = e
	}
	reader := r.reader
	r.mu.Unlock()
	if reader != nil {
		reader.wake(r)
	}
}

// move ends the recording of an answer that goes on at another gateway, which its reader
// has to look for.
func (r *recording) move() {
	r.mu.Lock()
	reader := r.reader
	r.reader = nil
	r.mu.Unlock()
	if reader != nil {
		reader.moved(r)
	}
	r.discard()
}

// lost reports whether another gateway has taken the answer.
func (r *recording) lost() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.terminal.GetError().GetCode() == codeResumedElsewhere
}

// awaitRoom waits until the reader has taken enough.
func (r *recording) awaitRoom(ctx context.Context) {
	for {
		r.mu.Lock()
		full := r.newest()-r.sent >= maxUnsent || r.unsentBytes >= maxUnsentBytes
		r.mu.Unlock()
		if !full {
			return
		}
		select {
		case <-r.room:
		case <-ctx.Done():
			return
		}
	}
}

// newest is the number of the last token. The lock is held.
func (r *recording) newest() uint64 { return r.base + uint64(len(r.tokens)) }

// portion is what a reader takes at once.
type portion struct {
	accepted *pb.Accepted
	progress *pb.Progress
	tokens   []entry // not changed by anybody
	seq      uint64  // of the last of them
	terminal *pb.Event
	more     bool // another portion waits
}

// take gives a reader what it has not seen; nothing to one that does not have
// the recording.
func (r *recording) take(by reader) portion {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b portion
	if r.reader != by {
		return b
	}
	if !r.acceptedSent && r.accepted != nil {
		b.accepted, r.acceptedSent = r.accepted, true
	}
	b.progress, r.progress = r.progress, nil
	from := int(r.sent - r.base)
	to := min(len(r.tokens), from+maxBatch)
	b.tokens = r.tokens[from:to:to]
	for _, t := range b.tokens {
		r.unsentBytes -= t.size()
	}
	r.sent = r.base + uint64(to)
	b.seq = r.sent
	switch {
	case to < len(r.tokens):
		b.more = true
	case r.terminal != nil && !r.terminalSent:
		b.terminal, r.terminalSent = r.terminal, true
	}
	r.trim()
	select {
	case r.room <- struct{}{}:
	default:
	}
	return b
}

// position is how far a reader has taken a recording.
type position struct {
	seq  uint64
	done bool // with its terminal
}

// taken tells how far the reader is.
func (r *recording) taken() position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return position{r.sent, r.terminalSent}
}

// ack says that the client has received what was taken up to p. An answer that
// was received whole is forgotten.
func (r *recording) ack(by reader, p position) {
	r.mu.Lock()
	if r.reader != by {
		r.mu.Unlock()
		return
	}
	r.acked = max(r.acked, p.seq)
	r.trim()
	r.mu.Unlock()
	if p.done {
		r.leave(by)
	}
}

// trim drops tokens that nobody can ask for. The lock is held.
func (r *recording) trim() {
	upTo := r.sent
	if r.resumable {
		upTo = min(r.acked, r.sent)
		upTo -= min(upTo, uint64(r.keep))
	}
	if upTo > r.base {
		r.tokens = r.tokens[upTo-r.base:]
		r.base = upTo
	}
}

// Refusals of attach.
var (
	errUnknownGeneration = &problem{code: codeUnknownGeneration, param: "id", message: "There is no generation of that id to go on with."}
	errAhead             = &problem{code: codeInvalid, param: "after_seq", message: "The generation has not come as far as after_seq."}
	errForgotten         = &problem{code: codeResumeExpired, param: "after_seq", message: "The tokens after after_seq are not kept any more."}
)

// attach gives the recording to a reader, from the token after seq on. The
// reader that had it is released.
func (r *recording) attach(to reader, after uint64, keep int) *problem {
	r.mu.Lock()
	switch {
	case r.forgotten:
		r.mu.Unlock()
		return errUnknownGeneration
	case after > r.newest():
		r.mu.Unlock()
		return errAhead
	case after < r.base:
		r.mu.Unlock()
		return errForgotten
	}
	old := r.reader
	r.reader, r.keep = to, keep
	r.sent, r.acked = after, after
	r.unsentBytes = 0
	for _, t := range r.tokens[after-r.base:] {
		r.unsentBytes += t.size()
	}
	r.acceptedSent, r.terminalSent = false, false
	r.trim()
	r.detachments++
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	if old != nil && old != to {
		old.released(r)
	}
	to.wake(r)
	return nil
}

// detach takes the recording from a reader that was lost. The answer goes on
// for detachedFor and as far as there is room, and may be fetched for keptFor.
func (r *recording) detach(from reader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reader != from || r.forgotten {
		return
	}
	r.reader = nil
	r.detachments++
	if r.closing {
		r.stop(errDrain)
	}
	n := r.detachments
	r.timer = time.AfterFunc(detachedFor, func() { r.expire(n, detachedFor) })
}

// expire ends a detachment that has lasted so long: first the computing, then
// the keeping.
func (r *recording) expire(n int, lasted time.Duration) {
	r.mu.Lock()
	if r.detachments != n || r.reader != nil {
		r.mu.Unlock()
		return
	}
	r.stop(errDetached)
	if lasted < keptFor {
		r.timer = time.AfterFunc(keptFor-lasted, func() { r.expire(n, keptFor) })
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	r.discard()
}

// close ends the generation if nobody reads it, now or as soon as its reader is
// lost.
func (r *recording) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = true
	if r.reader == nil {
		r.stop(errDrain)
	}
}

// idle reports whether the answer has ended and nobody reads it.
func (r *recording) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reader == nil && r.terminal != nil
}

// leave forgets the recording, unless another reader has it.
func (r *recording) leave(by reader) {
	r.mu.Lock()
	own := r.reader == by
	r.mu.Unlock()
	if own {
		r.discard()
	}
}

// discard ends the generation and forgets what was recorded.
func (r *recording) discard() {
	r.stop(errClient)
	r.mu.Lock()
	first := !r.forgotten
	r.forgotten = true
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	if first {
		r.forget()
	}
}
