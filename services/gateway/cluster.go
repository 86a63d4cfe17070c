package gateway

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

const (
	clusterAge     = time.Second            // how old an answer may be
	unreadyAge     = 100 * time.Millisecond // how old, while nothing can be answered
	clusterTimeout = 2 * time.Second        // how long the coordinator may take
)

// cluster is what the coordinator last said about itself.
type cluster struct {
	coordinator pb.CoordinatorServiceClient
	asking      chan struct{} // holds one token: one question at a time

	mu    sync.Mutex // guards following
	last  *pb.ClusterResponse
	err   error
	at    time.Time
	meter meter
}

func newCluster(c pb.CoordinatorServiceClient) *cluster {
	return &cluster{coordinator: c, asking: make(chan struct{}, 1)}
}

// state returns an answer of the coordinator that is at most clusterAge old, or
// unreadyAge unless it says that the cluster is ready: good news is waited for.
// The answer is shared: nobody changes it.
func (c *cluster) state(ctx context.Context) (*pb.ClusterResponse, error) {
	return c.ask(ctx, clusterAge)
}

// within is state with an answer that is at most so old, and with rates.
func (c *cluster) within(ctx context.Context, age time.Duration) (*pb.ClusterResponse, rateReport, error) {
	last, err := c.ask(ctx, age)
	c.mu.Lock()
	defer c.mu.Unlock()
	return last, c.meter.rates(), err
}

func (c *cluster) ask(ctx context.Context, age time.Duration) (*pb.ClusterResponse, error) {
	if last, err, fresh := c.cached(age); fresh {
		return last, err
	}
	select {
	case c.asking <- struct{}{}:
		defer func() { <-c.asking }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if last, err, fresh := c.cached(age); fresh { // somebody else has asked meanwhile
		return last, err
	}
	// One caller's haste must not become everybody's answer.
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), clusterTimeout)
	defer cancel()
	resp, err := c.coordinator.Cluster(ask, &pb.ClusterRequest{})
	if err != nil {
		err = fmt.Errorf("ask the coordinator: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.err, c.at = resp, err, time.Now()
	if err == nil {
		c.meter.add(c.at, resp.GetTotals())
	}
	return resp, err
}

func (c *cluster) cached(age time.Duration) (last *pb.ClusterResponse, err error, fresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || !c.last.GetReady() {
		age = min(age, unreadyAge)
	}
	return c.last, c.err, !c.at.IsZero() && time.Since(c.at) < age
}
