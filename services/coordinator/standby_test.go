package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// health asks a node's health of the relay until it is as wanted.
func (r *rig) waitHealth(what string, node, addr string, want healthpb.HealthCheckResponse_ServingStatus) {
	r.t.Helper()
	stream, err := healthpb.NewHealthClient(r.dialAt(addr, node, "gw", pki.Gateway)).Watch(r.t.Context(), &healthpb.HealthCheckRequest{Service: HealthService})
	if err != nil {
		r.t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			r.t.Fatalf("%s: %v", what, err)
		}
		if m.Status == want {
			return
		}
	}
}

// TestStandby: of two coordinators one serves. The other takes no shard and no
// gateway while the lease of the first is held, and takes over when it is not.
func TestStandby(t *testing.T) {
	r := newRig(t, nil, "a", "b")
	r.report("ready", ready)
	for _, s := range r.shards {
		s.holder.Store("head")
	}
	l := listen(t)
	cfg := Default()
	cfg.Wishes.Settle, cfg.Wishes.MinShards, cfg.Number = 0, 2, 9
	second := &gossip{changed: make(chan struct{}, 1), members: r.gossip.Members()}
	c, err := New(cfg, Deps{
		Identity: r.identity("second", pki.Coordinator), Listener: l, Members: second, Model: toyModel(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	addr := l.Addr().String()
	r.waitHealth("the second stands by", "second", addr, healthpb.HealthCheckResponse_NOT_SERVING)
	r.waitHealth("the first serves", "head", r.addr, healthpb.HealthCheckResponse_SERVING)
	a := r.relay.ask(100, raw("undisturbed$", 50))
	if a.finish(); a.text != "undisturbed" {
		t.Errorf("%q, %v", a.text, a.terminal)
	}
	asked := pb.NewCoordinatorServiceClient(r.dialAt(addr, "second", "gw", pki.Gateway))
	if info, err := asked.Cluster(t.Context(), &pb.ClusterRequest{}); err != nil || info.Ready || len(info.Pipelines) > 0 {
		t.Errorf("the second has plans of its own: %v, %v", info, err)
	}
	for _, s := range r.shards { // the lease runs out
		s.holder.Store("")
	}
	r.waitHealth("the second serves", "second", addr, healthpb.HealthCheckResponse_SERVING)
	for {
		info, err := asked.Cluster(t.Context(), &pb.ClusterRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if info.Ready && info.Epoch&0xff == 9 {
			break
		}
	}
}

// TestYields: a coordinator stands by for one that holds more of the shards both
// know, or as many and comes first by name.
func TestYields(t *testing.T) {
	for _, c := range []struct {
		own     int
		holders []string // of other shards; "" is nobody
		to      string
	}{
		{0, nil, ""},
		{0, []string{""}, ""},
		{2, []string{"a"}, ""},
		{1, []string{"a"}, "a"},
		{1, []string{"z"}, ""},
		{1, []string{"z", "", "z"}, "z"},
		{2, []string{"a", "z", ""}, ""},
		{0, []string{"z"}, "z"},
	} {
		o := &owner{c: &Coordinator{deps: Deps{Identity: simIdentity("head-1")}}, nodes: map[string]*node{}}
		for i := range c.own {
			o.nodes[fmt.Sprint("own", i)] = &node{conn: &shardConn{}}
		}
		for i, holder := range c.holders {
			o.nodes[fmt.Sprint("other", i)] = &node{holder: holder}
		}
		if to := o.yields(); to != c.to {
			t.Errorf("with %d shards, others held by %q, it stands by for %q, want %q", c.own, c.holders, to, c.to)
		}
	}
}

// TestStandingTakesNoShard: a shard whose lease is free is not for a coordinator
// that stands by.
func TestStandingTakesNoShard(t *testing.T) {
	c := &Coordinator{deps: Deps{Identity: simIdentity("head-1")}}
	l := newLink(c, "a", "a:1")
	free := &pb.HelloResponse{Protocol: 1, Cluster: c.deps.Identity.ClusterID(), Node: "a"}
	if err := l.check(free); err != nil {
		t.Errorf("a free shard: %v", err)
	}
	c.standing.Store(true)
	if err := l.check(free); !errors.Is(err, errRefused) {
		t.Errorf("a free shard while it stands by: %v", err)
	}
	free.Holder = "z"
	if held := (*heldError)(nil); !errors.As(l.check(free), &held) || held.holder != "z" {
		t.Errorf("a shard of another coordinator: %v", l.check(free))
	}
}
