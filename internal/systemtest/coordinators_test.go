package systemtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/services/coordinator"
)

// TestTwoCoordinators runs two coordinators side by side under light load, both started at
// the same moment: one serves and the other stands by, all the time.
// SHOAL_CHAOS_TWO says for how many seconds.
func TestTwoCoordinators(t *testing.T) {
	seconds := howMany(t, "SHOAL_CHAOS_TWO", "make chaos-two-coordinators")
	ctx := within(t, 2*time.Minute+time.Duration(seconds)*time.Second)
	c := prepareCluster(ctx, t)
	first := c.nodes["coordinator"]
	second := *first
	second.name, second.grpc, second.gossip, second.admin = "coordinator-2", freeAddr(t), freeAddr(t), freeAddr(t)
	second.args = append(slices.Clone(second.args),
		"--node-id=coordinator-2", "--gossip-addr="+second.gossip, "--grpc-addr="+second.grpc, "--admin-addr="+second.admin)
	c.nodes["coordinator-2"] = &second
	heads := []string{"coordinator", "coordinator-2"}
	for _, name := range append(slices.Clone(heads), append([]string{"gateway"}, shards...)...) {
		if name == "gateway" {
			c.nodes[name].args = append(c.nodes[name].args, "--log-level=warn")
		}
		c.start(t, name)
	}
	c.waitHealthy(ctx, t, shards...)
	who := c.watchHeads(ctx, t, heads)
	eventually(ctx, t, "not one of two coordinators serves", func() error { return who.one() })
	solo := solo(ctx, t, prompts[0])
	checkAnswered(ctx, t, c, "with two coordinators", solo)
	checkModelReady(ctx, t, c)
	before, err := c.newestPlan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	who.begin()
	answers, failed := 0, 0
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end) && ctx.Err() == nil; answers++ {
		if got, err := c.client().whole(ctx, prompts[0]); err != nil || got != solo {
			failed++
			t.Errorf("answer %d: %q, %v", answers, got, err)
		}
		pauseFor(ctx, time.Second)
	}
	changes, both, samples := who.end()
	after, err := c.newestPlan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d s with two coordinators: asked %d times whether one of them serves, it was otherwise %d times, both did %d times; %d of %d answers failed", seconds, samples, changes, both, failed, answers)
	if changes > 0 {
		t.Errorf("one did not serve while the other stood by: %d of %d times", changes, samples)
	}
	if after != before { // speeds are measured while it runs
		t.Logf("the plan of epoch %#x became that of %#x: a better one", before, after)
	}
	saveChaos(t, "make chaos-two-coordinators",
		measure.Figure{Name: "two_coordinators_s", Unit: "seconds with two coordinators, accumulated", Value: float64(seconds)},
		measure.Figure{Name: "two_coordinators_changes", Unit: "times that not the same one served alone, asked four times a second, accumulated", Value: float64(changes)},
		measure.Figure{Name: "two_coordinators_both", Unit: "times that both served, asked four times a second, accumulated", Value: float64(both)},
		measure.Figure{Name: "two_coordinators_failed", Unit: "answers that failed meanwhile, accumulated", Value: float64(failed)})
}

// checkModelReady waits until the cluster says that it is ready.
func checkModelReady(ctx context.Context, t *testing.T, c *system) {
	t.Helper()
	eventually(ctx, t, "no stages", func() error {
		if n := len(c.stageNodes(ctx, t)); n != 3 {
			return fmt.Errorf("%d stages", n)
		}
		return nil
	})
}

// newestPlan is the epoch of the plan in force.
func (c *system) newestPlan(ctx context.Context) (epoch uint64, err error) {
	var s struct{ Epoch uint64 }
	err = c.client().read(ctx, "/v1/cluster", nil, &s)
	return s.Epoch, err
}

// heads asks coordinators again and again which of them serves, as gateways do.
type heads struct {
	names   []string
	serving []atomic.Bool
	mu      sync.Mutex
	counts  bool   // guarded by mu, and what follows
	served  string // the one that serves
	changes int
	both    int // times that all served
	samples int
}

// watchHeads asks until the test ends.
func (c *system) watchHeads(ctx context.Context, t *testing.T, names []string) *heads {
	t.Helper()
	secret, err := pki.LoadSecret(c.secretFile)
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.New(secret, pki.Node{ID: "watcher", Roles: []pki.Role{pki.Gateway}})
	if err != nil {
		t.Fatal(err)
	}
	h := &heads{names: names, serving: make([]atomic.Bool, len(names))}
	var clients []healthpb.HealthClient
	for _, name := range names {
		conn, err := grpc.NewClient("passthrough:///"+c.nodes[name].grpc, grpc.WithTransportCredentials(id.ClientCredentials(name, pki.Coordinator)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		clients = append(clients, healthpb.NewHealthClient(conn))
	}
	go func() {
		for ctx.Err() == nil {
			for i, client := range clients {
				r, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: coordinator.HealthService})
				h.serving[i].Store(err == nil && r.Status == healthpb.HealthCheckResponse_SERVING)
			}
			h.note()
			pauseFor(ctx, 250*time.Millisecond)
		}
	}()
	return h
}

// alone is the one that serves; "" when it is not exactly one.
func (h *heads) alone() (name string) {
	for i := range h.serving {
		if h.serving[i].Load() {
			if name != "" {
				return ""
			}
			name = h.names[i]
		}
	}
	return name
}

func (h *heads) serves(name string) bool { return h.serving[slices.Index(h.names, name)].Load() }

func (h *heads) one() error {
	if h.alone() == "" {
		return fmt.Errorf("of %v serve %v and %v", h.names, h.serving[0].Load(), h.serving[1].Load())
	}
	return nil
}

func (h *heads) note() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.counts {
		return
	}
	h.samples++
	if h.alone() != h.served {
		h.changes++
	}
	if !slices.ContainsFunc(h.names, func(name string) bool { return !h.serves(name) }) {
		h.both++
	}
}

// begin counts from now on how often it is not the one that serves now.
func (h *heads) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts, h.served = true, h.alone()
}

func (h *heads) end() (changes, both, samples int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts = false
	return h.changes, h.both, h.samples
}
