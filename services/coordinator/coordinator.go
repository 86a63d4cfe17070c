package coordinator

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Sizes and times of the coordinator's inside.
const (
	maxEvents    = 4096                  // waiting for the owner
	maxJobs      = 1024                  // requests waiting for a worker
	tickEvery    = 50 * time.Millisecond // deadlines, settling, leases
	drainTimeout = 2 * time.Second       // for last messages at the end
)

// Coordinator runs one model over the shards of a cluster.
type Coordinator struct {
	cfg      Config
	deps     Deps
	events   chan event
	jobs     chan *session
	health   *health.Server
	standing atomic.Bool       // the owner's, for links
	ended    chan struct{}     // closed when the owner has ended
	parts    []*pb.MeasurePart // of the model, to be measured
}

// New returns a coordinator that does nothing before Run.
func New(cfg Config, deps Deps) (*Coordinator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := deps.check(); err != nil {
		return nil, err
	}
	return &Coordinator{
		cfg: cfg, deps: deps,
		events: make(chan event, maxEvents),
		jobs:   make(chan *session, maxJobs),
		health: newHealth(),
		ended:  make(chan struct{}),
		parts:  measureParts(&deps.Model.Facts),
	}, nil
}

// Run serves until ctx ends: then every generation is stopped with the reason
// "drain", gateways get a moment to hear it, and everything that was started has
// returned. It is called once.
func (c *Coordinator) Run(ctx context.Context) error {
	server, err := c.newServer()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for range max(runtime.GOMAXPROCS(0), 2) {
		group.Go(func() error { return c.prepareAll(ctx) })
	}
	group.Go(func() error {
		newOwner(c).run(ctx)
		return nil
	})
	group.Go(func() error {
		if err := server.Serve(c.deps.Listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve %s: %w", c.deps.Listener.Addr(), err)
		}
		return nil
	})
	group.Go(func() error {
		<-c.ended // the owner has said its last words; now they go out
		stopServer(server)
		return nil
	})
	return group.Wait()
}

// stopServer lets streams end by themselves, for a moment.
func stopServer(server *grpc.Server) {
	forced := time.AfterFunc(drainTimeout, server.Stop)
	defer forced.Stop()
	server.GracefulStop()
}

// post gives the owner an event. It waits while the owner is behind, and gives
// up when it has ended.
func (c *Coordinator) post(e event) {
	select {
	case c.events <- e:
	case <-c.ended:
	}
}

// newHealth says that the coordinator serves: one that stands by knows it soon.
func newHealth() *health.Server {
	h := health.NewServer()
	h.SetServingStatus(HealthService, healthpb.HealthCheckResponse_SERVING)
	return h
}
