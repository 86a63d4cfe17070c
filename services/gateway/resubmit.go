package gateway

import (
	"context"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// resubmitEvery is how long an interrupted answer waits between two tries.
const resubmitEvery = 100 * time.Millisecond

// maxBarren is how many coordinators in a row may be lost after they accepted an
// answer and before they gave a token of it, before it is the request that ends:
// they may have died of it, and no other shall.
const maxBarren = 2

// Phases of an answer that is interrupted.
const (
	phaseRecovering = "recovering"
	phaseWaiting    = "waiting"
)

// generate implements generateFunc over the relay. An answer outlives the
// coordinator that began it: when that is gone, the ids so far are submitted to
// the one that comes, with the same seed. The reader sees a pause.
func (r *relay) generate(ctx context.Context, g *pb.Generation) iter.Seq[*pb.Event] {
	return r.persist(ctx, &attempts{relay: r, request: g})
}

// adopt implements claimFunc over the relay.
func (r *relay) adopt(ctx context.Context, c *pb.Claim) iter.Seq[*pb.Event] {
	return r.persist(ctx, &attempts{relay: r, claim: c})
}

// persist gets an answer by as many tries as it takes.
func (r *relay) persist(ctx context.Context, a *attempts) iter.Seq[*pb.Event] {
	return func(yield func(*pb.Event) bool) {
		release, ok := r.hold(a.request)
		defer release()
		if !ok {
			yield(errPictures.event())
			return
		}
		for {
			end := a.once(ctx, yield)
			if end == nil {
				return
			}
			if a.barren >= maxBarren {
				yield(errPoison.event())
				return
			}
			if a.since.IsZero() {
				a.since = time.Now()
				if !yield(progress(&pb.Progress{Phase: phaseRecovering})) {
					return
				}
			}
			if !a.again(ctx) {
				yield(a.end(ctx, end))
				return
			}
		}
	}
}

// attempts is an answer and the tries to get it.
type attempts struct {
	relay     *relay
	request   *pb.Generation // as the client made it
	claim     *pb.Claim      // of an answer that another gateway had; else nil
	accepted  *pb.Accepted   // of the first try that got so far
	committed []int32
	since     time.Time // it is interrupted; zero is not
	barren    int       // coordinators lost in a row that had accepted it and gave no token
}

// once tries to get the answer, or the rest of it. It returns the terminal if
// that says that another try may help, nil when the reader has all or has left.
func (a *attempts) once(ctx context.Context, yield func(*pb.Event) bool) (interrupted *pb.Event) {
	accepted := false
	for e := range a.relay.once(ctx, a.next(), a.after()) {
		if terminal(e) && a.interrupts(ctx, e) {
			if accepted && e.GetError().GetCode() == codeCoordinatorLost {
				a.barren++
			}
			return e
		}
		accepted = accepted || e.GetAccepted() != nil
		if e.GetToken() != nil {
			accepted, a.barren = false, 0
		}
		if e = a.note(e); e != nil && !yield(e) {
			return nil
		}
	}
	return nil
}

// after is the number of the last token that is there.
func (a *attempts) after() uint64 {
	if a.claims() {
		return a.claim.GetAfter()
	}
	return uint64(len(a.committed))
}

// claims reports whether the answer is to be claimed still.
func (a *attempts) claims() bool { return a.claim != nil && a.accepted == nil }

// next asks for the answer: by ids, seed and fingerprint, once they are known.
func (a *attempts) next() *pb.Upward {
	if a.claims() {
		return &pb.Upward{Message: &pb.Upward_Claim{Claim: a.claim}}
	}
	return &pb.Upward{Message: &pb.Upward_Start{Start: a.rest()}}
}

// rest is the request for what is left of the answer.
func (a *attempts) rest() *pb.Generation {
	if a.accepted == nil {
		return a.request
	}
	g := proto.Clone(a.request).(*pb.Generation)
	g.Input = &pb.Generation_Resumption{Resumption: &pb.Resumption{
		Pictures: resumedPictures(a.request, a.accepted.GetPictures()),
		Id:       a.accepted.GetId(), PromptIds: a.accepted.GetPromptIds(), CommittedIds: a.committed, Fingerprint: a.accepted.GetFingerprint(),
	}}
	if g.Sampling == nil {
		g.Sampling = &pb.Sampling{}
	}
	g.SeedSet, g.Sampling.Seed = true, a.accepted.GetSeed()
	if n := a.accepted.GetMaxTokens(); n > 0 {
		g.Sampling.MaxTokens = int32(n)
	}
	return g
}

// note keeps what a resubmission needs and returns what the reader is told: that
// an answer is accepted it hears once.
func (a *attempts) note(e *pb.Event) *pb.Event {
	switch ev := e.GetEvent().(type) {
	case *pb.Event_Accepted:
		a.since = time.Time{}
		before := a.accepted
		a.accepted = ev.Accepted
		if before == nil {
			return e
		}
		if ev.Accepted.GetFingerprint() == before.GetFingerprint() {
			return nil
		}
		return progress(&pb.Progress{Phase: phaseRecovering, Fingerprint: ev.Accepted.GetFingerprint(), Notes: ev.Accepted.GetNotes()})
	case *pb.Event_Claimed:
		a.request, a.committed = ev.Claimed.GetRequest(), ev.Claimed.GetCommittedIds()
	case *pb.Event_Progress:
		if f := ev.Progress.GetFingerprint(); f != "" && a.accepted != nil {
			a.accepted = proto.Clone(a.accepted).(*pb.Accepted)
			a.accepted.Fingerprint = f
		}
	case *pb.Event_Token:
		a.committed = append(a.committed, ev.Token.GetId())
	}
	return e
}

func progress(p *pb.Progress) *pb.Event { return &pb.Event{Event: &pb.Event_Progress{Progress: p}} }

// interrupts reports whether a terminal is one of the coordinator rather than of
// the answer.
func (a *attempts) interrupts(ctx context.Context, e *pb.Event) bool {
	if ctx.Err() != nil || a.relay.closing() {
		return false
	}
	if s := e.GetStopped(); s != nil {
		return s.GetReason() == "drain" // the coordinator's: this gateway goes on
	}
	switch e.GetError().GetCode() {
	case codeCoordinatorLost:
		return true
	case codeNoCoordinator, codeNoCapacity, codeModelLoading:
		return !a.since.IsZero() // it comes up
	}
	return false
}

// again waits before another try; false when there shall be none.
func (a *attempts) again(ctx context.Context) bool {
	if time.Since(a.since) >= a.relay.patience {
		return false
	}
	pause := time.NewTimer(resubmitEvery)
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-ctx.Done():
	case <-a.relay.draining.done:
	}
	return false
}

// end is the terminal of an answer that is given up.
func (a *attempts) end(ctx context.Context, last *pb.Event) *pb.Event {
	switch {
	case ctx.Err() != nil:
		return stopped(ctx, uint64(len(a.committed)))
	case a.relay.closing() && last.GetStopped() != nil:
		return last
	}
	return errLost.event()
}
