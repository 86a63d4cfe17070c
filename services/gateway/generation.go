package gateway

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// generateFunc asks for one answer. The sequence ends with exactly one terminal
// event (complete, stopped or error) unless the caller leaves it, which stops
// the generation; so does the end of ctx, whose cause names the reason.
type generateFunc func(ctx context.Context, g *pb.Generation) iter.Seq[*pb.Event]

// Causes that end the context of a generation.
var (
	errClient = errors.New("the client went away")
	errDrain  = errors.New("the gateway is shutting down")
)

// stopReason names the cause as Stop and Stopped do.
func stopReason(ctx context.Context) string {
	switch err := context.Cause(ctx); {
	case errors.Is(err, errDrain):
		return "drain"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline"
	}
	return "client"
}

// once gets an answer, or with tokens from after+1 on the rest of one, from the
// coordinator that is connected; first, which asks for it, is sent by no other. The
// reader's pace is the generation's: credit is granted for tokens that were consumed.
func (r *relay) once(ctx context.Context, first *pb.Upward, after uint64) iter.Seq[*pb.Event] {
	return func(yield func(*pb.Event) bool) {
		if ctx.Err() != nil { // nobody waits any more: the coordinator need not know
			yield(stopped(ctx, 0))
			return
		}
		number, box, l, err := r.register(ctx)
		if err != nil {
			yield(failure(ctx, err))
			return
		}
		defer l.remove(number)
		first.Number = number
		l.post(first, credit(number, after+window))
		s := &subscription{number: number, box: box, link: l, granted: after + window, seq: after}
		defer s.stop(ctx) // also when the reader leaves early
		s.read(ctx, yield)
	}
}

// failure is the terminal of a generation that never started.
func failure(ctx context.Context, err error) *pb.Event {
	var p *problem
	if errors.As(err, &p) {
		return p.event()
	}
	return stopped(ctx, 0)
}

func stopped(ctx context.Context, tokens uint64) *pb.Event {
	return &pb.Event{Event: &pb.Event_Stopped{Stopped: &pb.Stopped{
		Reason: stopReason(ctx),
		Usage:  &pb.Usage{CompletionTokens: uint32(tokens)},
	}}}
}

func credit(number, seq uint64) *pb.Upward {
	return &pb.Upward{Number: number, Message: &pb.Upward_Credit{Credit: &pb.Credit{Seq: seq}}}
}

// subscription is the reading end of one generation.
type subscription struct {
	number  uint64
	box     *mailbox
	link    *link
	granted uint64 // credit up to this token
	seq     uint64 // of the last token
	over    bool   // the coordinator knows that the generation has ended
}

// read yields events up to the terminal or until the reader leaves.
func (s *subscription) read(ctx context.Context, yield func(*pb.Event) bool) {
	for {
		e, err := s.box.take(ctx)
		if err != nil {
			s.stop(ctx) // before the reader, who may be slow, hears of it
			yield(stopped(ctx, s.seq))
			return
		}
		if p := s.check(e); p != nil {
			s.stop(ctx)
			yield(p.event())
			return
		}
		if terminal(e) {
			s.over = !s.box.overrun() // else the end is ours, and news to the coordinator
			s.stop(ctx)
			yield(e)
			return
		}
		if !yield(e) {
			return
		}
		s.grant()
	}
}

// stop tells the coordinator to end the generation, unless it has.
func (s *subscription) stop(ctx context.Context) {
	if s.over {
		return
	}
	s.over = true
	s.link.post(&pb.Upward{Number: s.number, Message: &pb.Upward_Stop{Stop: &pb.Stop{Reason: stopReason(ctx)}}})
}

// check holds the coordinator to law 2: sequence numbers grow by one.
func (s *subscription) check(e *pb.Event) *problem {
	t := e.GetToken()
	if t == nil {
		return nil
	}
	if t.GetSeq() != s.seq+1 {
		return &problem{code: codeInternal, message: fmt.Sprintf("Token %d arrived where token %d was due.", t.GetSeq(), s.seq+1)}
	}
	s.seq++
	return nil
}

// grant renews the credit when half of the window is used.
func (s *subscription) grant() {
	if s.granted-s.seq <= window/2 {
		s.granted = s.seq + window
		s.link.post(credit(s.number, s.granted))
	}
}

// mailbox is the bounded queue between the stream and one reader. Progress that
// was not read yet is replaced by newer progress.
type mailbox struct {
	ready chan struct{} // holds a token while events may wait

	mu     sync.Mutex // guards following
	events []*pb.Event
	taken  int // of the events
	ended  bool
	over   bool // ended because it was full
}

func newMailbox() *mailbox { return &mailbox{ready: make(chan struct{}, 1)} }

// put queues an event. A coordinator that sends beyond its credit loses the
// generation, never our memory.
func (b *mailbox) put(e *pb.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return
	}
	n := len(b.events) - b.taken
	if b.taken > 0 && len(b.events) == cap(b.events) { // make room at the end
		copy(b.events, b.events[b.taken:])
		clear(b.events[n:])
		b.events, b.taken = b.events[:n], 0
	}
	switch {
	case e.GetProgress() != nil && n > 0 && b.events[len(b.events)-1].GetProgress() != nil:
		b.events[len(b.events)-1] = newer(b.events[len(b.events)-1].GetProgress(), e)
	case terminal(e):
		b.ended = true
		b.events = append(b.events, e)
	case n >= window+spareEvents:
		b.ended, b.over = true, true
		b.events = append(b.events, (&problem{code: codeInternal, message: "The coordinator sent more than it was allowed to."}).event())
	default:
		b.events = append(b.events, e)
	}
	b.wake()
}

// newer is progress that replaces older progress, and says what that said of the
// answer itself.
func newer(old *pb.Progress, e *pb.Event) *pb.Event {
	if old.GetFingerprint() == "" || e.GetProgress().GetFingerprint() != "" {
		return e
	}
	p := proto.Clone(e.GetProgress()).(*pb.Progress)
	p.Fingerprint, p.Notes = old.GetFingerprint(), old.GetNotes()
	return progress(p)
}

func (b *mailbox) overrun() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.over
}

func (b *mailbox) wake() {
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// take waits for the next event. The end of ctx wins over waiting events.
func (b *mailbox) take(ctx context.Context) (*pb.Event, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if e := b.pop(); e != nil {
			return e, nil
		}
		select {
		case <-ctx.Done():
		case <-b.ready:
		}
	}
}

func (b *mailbox) pop() *pb.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taken == len(b.events) {
		b.events, b.taken = b.events[:0], 0 // the memory is used again
		return nil
	}
	e := b.events[b.taken]
	b.events[b.taken] = nil
	b.taken++
	return e
}
