package coordinator

import (
	"context"
	"sync"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// outside is what the owner sets going and never waits for. What comes of it is
// posted as events, after the one that is being applied.
type outside interface {
	// connect keeps a link connected until stop.
	connect(l *link) (stop context.CancelFunc)
	// carry opens the streams of a pipeline and carries their messages until stop.
	carry(p *pipeline, first, last *shardConn) (stop context.CancelFunc)
	// measure asks a shard for the speed of its devices, nil when it gives none.
	measure(conn *shardConn, cached bool, turn float64, answer func([]*pb.DeviceSpeed) event)
	// measureLinks asks a shard for the speed of its links, nil when it gives none.
	measureLinks(conn *shardConn, req *pb.MeasureLinksRequest, answer func([]*pb.LinkSpeed) event)
	// see shows pictures to a shard until it has their rows, or stop.
	see(conn *shardConn, key plan.Key, pictures []picture, answer func(error) event) (stop context.CancelFunc)
	// afterwards posts an event.
	afterwards(e event)
}

// started is the outside of a coordinator that runs: goroutines that end with ctx.
type started struct {
	c     *Coordinator
	ctx   context.Context
	group sync.WaitGroup
}

// start runs f in a goroutine that ends with ctx, or by stop.
func (s *started) start(f func(ctx context.Context)) (stop context.CancelFunc) {
	ctx, stop := context.WithCancel(s.ctx)
	s.group.Go(func() { f(ctx) })
	return stop
}

func (s *started) see(conn *shardConn, key plan.Key, pictures []picture, answer func(error) event) context.CancelFunc {
	return s.start(func(ctx context.Context) {
		if err := see(ctx, conn, key, pictures); ctx.Err() == nil {
			s.c.post(answer(err))
		}
	})
}

func (s *started) connect(l *link) context.CancelFunc { return s.start(l.run) }

func (s *started) carry(p *pipeline, first, last *shardConn) context.CancelFunc {
	return s.start(func(ctx context.Context) { s.c.runPipeline(ctx, p, first, last) })
}

func (s *started) measure(conn *shardConn, cached bool, turn float64, answer func([]*pb.DeviceSpeed) event) {
	s.start(func(ctx context.Context) { s.c.post(answer(s.c.measure(ctx, conn, cached, turn))) })
}

func (s *started) measureLinks(conn *shardConn, req *pb.MeasureLinksRequest, answer func([]*pb.LinkSpeed) event) {
	s.start(func(ctx context.Context) { s.c.post(answer(s.c.measureLinks(ctx, conn, req))) })
}

func (s *started) afterwards(e event) {
	s.start(func(context.Context) { s.c.post(e) })
}
