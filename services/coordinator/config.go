// Package coordinator knows who is in the cluster, plans who computes which
// layers, admits requests, and commits tokens.
//
// One goroutine, the owner, holds all state: nodes, plan, queue and sessions
// (state.go). Everything else sends it events and carries out what it asks for: a
// link per shard (link.go), the streams of every pipeline (pipeline.go), a relay
// per gateway (server.go), and workers that turn requests into prompts
// (prepare.go). Requests wait in one line (admit.go) and are dealt to pipelines
// (balance.go); an answer outlives the pipeline that computes it (recover.go). Of
// several coordinators one serves (standby.go). The owner never waits for any of them; every queue
// between them is bounded. What to do is decided by two pure machines, plan and
// generation.
package coordinator

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/internal/weights"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
	"github.com/shoal-llm/shoal/services/coordinator/registry"
)

// Config says how a coordinator plans and how much it takes on.
type Config struct {
	Version string      // of the program
	Number  uint8       // of this coordinator: the low bits of its epochs
	Aliases []string    // other names that clients may call the model by
	Wishes  plan.Wishes // for the plan
	Place   plan.Placer // nil is plan.Split

	MaxWaiting       int           // requests that wait for a slot
	MaxWaitingTokens int           // prompt tokens of requests that wait
	MaxWait          time.Duration // of a request for a slot
	MaxRecovery      time.Duration // that an interrupted answer waits for shards to go on
}

// Default returns the configuration of a small cluster.
func Default() Config {
	return Config{
		Wishes: plan.Wishes{
			MinShards: 1, Sessions: 4, Slots: 32, Rows: 256, Settle: time.Second, Steady: 2 * time.Second, Losses: 3,
		},
		MaxWaiting: 256, MaxWaitingTokens: 1 << 18, MaxWait: time.Minute, MaxRecovery: 30 * time.Second,
	}
}

// Validate reports the first setting that cannot work, by the name of its flag.
func (c Config) Validate() error {
	w := c.Wishes
	switch {
	case w.Stages < 0 || w.Stages > 1024:
		return fmt.Errorf("--stages %d: want 0 (one per device) to 1024", w.Stages)
	case w.MinShards < 0 || w.MinShards > 1024:
		return fmt.Errorf("--min-shards %d: want 0 to 1024", w.MinShards)
	case w.Sessions < 1 || w.Sessions > frame.MaxSlots:
		return fmt.Errorf("--sessions %d: want 1 to %d", w.Sessions, frame.MaxSlots)
	case w.Slots < 1 || w.Slots > frame.MaxSlots:
		return fmt.Errorf("--slots %d: want 1 to %d", w.Slots, frame.MaxSlots)
	case w.Rows < 1 || w.Rows > frame.MaxRows:
		return fmt.Errorf("--rows %d: want 1 to %d", w.Rows, frame.MaxRows)
	case w.Context < 0:
		return fmt.Errorf("--context %d: want 0 (the model's) or more", w.Context)
	case w.Settle < 0:
		return fmt.Errorf("--settle %v: want 0 or more", w.Settle)
	case w.Steady < 0:
		return fmt.Errorf("--steady %v: want 0 or more", w.Steady)
	case w.Losses < 0:
		return fmt.Errorf("--max-losses %d: want 0 (no limit) or more", w.Losses)
	case w.Spares < 0 || w.Spares > 1024:
		return fmt.Errorf("--spares %d: want 0 to 1024", w.Spares)
	case c.MaxWaiting < 1 || c.MaxWaiting > 1<<16:
		return fmt.Errorf("--max-waiting %d: want 1 to %d", c.MaxWaiting, 1<<16)
	case c.MaxWaitingTokens < 1:
		return fmt.Errorf("--max-waiting-tokens %d: want 1 or more", c.MaxWaitingTokens)
	case c.MaxWait <= 0:
		return fmt.Errorf("--max-wait %v: want more than 0", c.MaxWait)
	case c.MaxRecovery < 0:
		return fmt.Errorf("--max-recovery %v: want 0 or more", c.MaxRecovery)
	}
	return nil
}

// Members tells who may be in the cluster. A *cluster.Cluster is one.
type Members interface {
	// Members returns a snapshot, sorted by node id.
	Members() []cluster.Member
	// Changed receives after Members may have changed. The coordinator is its
	// one reader.
	Changed() <-chan struct{}
}

// Deps are what a coordinator works with.
type Deps struct {
	Identity  *pki.Identity
	Listener  net.Listener // for other nodes; Run closes it
	Members   Members
	Model     Model
	Registry  *registry.Registry   // nil: the cluster lives by a secret, or its certificates come from outside
	Weights   *weights.Keeper      // what it has of the model, for shards that lack it; nil gives nothing
	Address   string               // that shards reach it by; empty is the listener's
	Telemetry *telemetry.Telemetry // nil forgets everything
	Log       *slog.Logger
}

func (d *Deps) check() error {
	switch {
	case d.Identity == nil:
		return errors.New("coordinator: no identity")
	case d.Listener == nil:
		return errors.New("coordinator: no listener")
	case d.Members == nil:
		return errors.New("coordinator: no members")
	case d.Log == nil:
		return errors.New("coordinator: no log")
	case d.Model.Text == nil || d.Model.Facts.Layers() == 0:
		return errors.New("coordinator: no model")
	}
	if d.Telemetry == nil {
		d.Telemetry = telemetry.Nop()
	}
	return nil
}
