package gateway

import (
	"context"
	"iter"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// claimFunc asks for an answer that another gateway had, like generateFunc. The first
// event is Claimed, or an error.
type claimFunc func(ctx context.Context, c *pb.Claim) iter.Seq[*pb.Event]

// fill runs a generation into a recording, in a goroutine that ends with the
// generation. The request is ended.
func (g *Gateway) fill(ctx context.Context, req *request, gen *pb.Generation, r *recording) {
	g.shelf.work.Go(func() {
		defer req.end()
		defer r.stop(errClient) // gives back what the context holds
		ctx, cancel := g.untilHandedOver(ctx, r)
		defer cancel()
		ctx, done := g.flights.enter(ctx, req.tenant, r.id)
		defer done()
		r.fill(ctx, g.run(ctx, req, gen))
	})
}

// untilHandedOver returns a context that ends when the gateway shuts down: at once for
// an answer that another gateway may go on with, else when the time for answers is over.
func (g *Gateway) untilHandedOver(ctx context.Context, r *recording) (context.Context, context.CancelFunc) {
	if r.resumable {
		return until(ctx, g.draining, errDrain)
	}
	return g.untilDrained(ctx)
}

// fill puts events into the recording until their end. An answer that the gateway's
// shutdown cuts off goes on at another one.
func (r *recording) fill(ctx context.Context, events iter.Seq[*pb.Event]) {
	for e := range events {
		if s := e.GetStopped(); s != nil && s.GetReason() == "drain" && r.resumable {
			r.move()
			return
		}
		r.put(ctx, e)
	}
	if r.idle() && r.lost() {
		r.discard() // it may come back
	}
}

// adopt goes on with an answer that another gateway had, from the token after q.after on,
// in a recording that to reads and of which keep acknowledged tokens are kept.
func (g *Gateway) adopt(ctx context.Context, door, tenant string, q *richRequest, to reader, keep int) (*recording, *problem) {
	ctx, release := until(context.WithoutCancel(ctx), g.draining, errDrain)
	ctx, done := g.flights.enter(ctx, tenant, q.id)
	ctx, stop := context.WithCancelCause(ctx)
	next, leave := iter.Pull(g.claim(ctx, &pb.Claim{Tenant: tenant, Id: q.id, After: q.after}))
	end := func() {
		leave()
		stop(errClient)
		done()
		release()
	}
	claimed, p := firstClaimed(next)
	if p != nil {
		end()
		return nil, p
	}
	gen := claimed.GetRequest()
	ctx, req := g.begin(ctx, door, gen)
	r := newRecording(q.id, req.id, tenant, shownBy(gen.GetKeep().GetNote()), to, keep)
	r.base, r.sent, r.acked = q.after, q.after, q.after
	r.stop = stop
	if p := g.shelf.add(r); p != nil {
		end()
		req.refuse(p)
		req.end()
		return nil, p
	}
	g.shelf.work.Go(func() {
		defer req.end()
		defer end()
		r.fill(ctx, g.watched(ctx, req, gen, rest(next)))
	})
	return r, nil
}

// firstClaimed returns what is claimed, or why nothing is.
func firstClaimed(next func() (*pb.Event, bool)) (*pb.Claimed, *problem) {
	for {
		e, ok := next()
		switch {
		case e.GetClaimed() != nil:
			return e.GetClaimed(), nil
		case e.GetError() != nil:
			return nil, problemFrom(e.GetError())
		case !ok || terminal(e):
			return nil, errUnknownGeneration
		}
	}
}

// rest are the events that have not been pulled yet.
func rest(next func() (*pb.Event, bool)) iter.Seq[*pb.Event] {
	return func(yield func(*pb.Event) bool) {
		for e, ok := next(); ok && yield(e); e, ok = next() {
		}
	}
}
