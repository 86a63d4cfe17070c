package shard

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// drainTimeout is what streams get for their last messages when a shard ends.
const drainTimeout = 500 * time.Millisecond

// Shard is the worker role of a node.
type Shard struct {
	cfg     Config
	deps    Deps
	devices []*device
	control *control
	sight   *sight
	plans   chan struct{} // capacity 1: for the loader, the plan has changed
	held    []*reserve    // of the loader

	loading atomic.Bool         // stages are being loaded
	passes  chan backgroundPass // capacity 1: what is to be read back beside answers

	speeds    *speeds
	measuring chan struct{} // holds a token while devices are measured
}

// New returns a shard that does nothing before Run.
func New(cfg Config, deps Deps) (*Shard, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := deps.check(); err != nil {
		return nil, err
	}
	s := &Shard{cfg: cfg, deps: deps, control: newControl(), sight: newSight(), plans: make(chan struct{}, 1), passes: make(chan backgroundPass, 1)}
	s.measuring = make(chan struct{}, 1)
	var err error
	if s.speeds, err = openSpeeds(cfg.State, cfg.KernelSet); err != nil {
		deps.Log.Warn("devices are measured anew", "err", err)
	}
	for i, d := range deps.Devices {
		s.devices = append(s.devices, newDevice(i, d, deps.Telemetry, deps.Log))
	}
	return s, nil
}

// Run serves until ctx ends. Then all pipelines end and everything that was
// started has returned. It is called once.
func (s *Shard) Run(ctx context.Context) error {
	server, err := s.newServer()
	if err != nil {
		return err
	}
	stopped := ctx // by somebody; the group's ends also when the shard fails
	group, ctx := errgroup.WithContext(ctx)
	for _, d := range s.devices {
		group.Go(func() error { return d.run(ctx) })
	}
	group.Go(func() error { return s.loadAll(ctx) })
	group.Go(func() error { return s.verifyAll(ctx) })
	group.Go(func() error {
		if err := server.Serve(s.deps.Listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve %s: %w", s.deps.Listener.Addr(), err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		s.control.end(errors.New("the shard is stopping"), stopped.Err() != nil)
		stopServer(server)
		return nil
	})
	err = group.Wait()
	return errors.Join(err, s.sight.close())
}

// stopServer lets streams end by themselves, for a moment.
func stopServer(server *grpc.Server) {
	forced := time.AfterFunc(drainTimeout, server.Stop)
	defer forced.Stop()
	server.GracefulStop()
}
