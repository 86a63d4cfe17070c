package gateway

import (
	"context"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// fill runs a generation into a recording, in a goroutine that ends with the
// generation. The request is ended.
func (g *Gateway) fill(ctx context.Context, req *request, gen *pb.Generation, r *recording) {
	g.shelf.work.Go(func() {
		defer req.end()
		defer r.stop(errClient) // gives back what the context holds
		ctx, cancel := g.untilDrained(ctx)
		defer cancel()
		ctx, done := g.flights.enter(ctx, req.tenant, r.id)
		defer done()
		for e := range g.run(ctx, req, gen) {
			r.put(ctx, e)
		}
	})
}
