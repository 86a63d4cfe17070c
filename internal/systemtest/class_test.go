//go:build linux

package systemtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
)

// What TestOtherClass asks for: so long that it is under way when machines go and come.
const (
	classTokens = 960
	classSome   = 40 // frames of tokens until a machine is killed
)

// classCluster is a CPU and a GPU, each of which holds all of the model.
type classCluster struct {
	gpuCluster
	devices map[string]string // shards, by the node that computes
}

func startClasses(ctx context.Context, t *testing.T) classCluster {
	t.Helper()
	program, devices, env := gpuProgram(ctx, t)
	c := classCluster{gpuCluster{prepareCluster(ctx, t), env}, map[string]string{"shard-1": "shard-1", "shard-2.gpu0": "shard-2"}}
	c.nodes["shard-1"].args = append(c.nodes["shard-1"].args, "--device=cpu")
	c.nodes["shard-2"].args = append(c.nodes["shard-2"].args, "--gpu-program="+program, "--device="+devices)
	c.nodes["coordinator"].args = append(c.nodes["coordinator"].args, "--min-shards=2", "--stages=1", "--replicas=1", "--steady=1h", "--max-losses=0")
	for _, name := range []string{"coordinator", "gateway", "shard-1", "shard-2"} {
		c.startGPU(t, name)
	}
	c.waitHealthy(ctx, t, "coordinator", "gateway", "shard-1", "shard-2")
	return c
}

// ready waits until both compute, and returns which of the nodes has the stage.
func (c classCluster) ready(ctx context.Context, t *testing.T) (holds, other string) {
	t.Helper()
	eventually(ctx, t, "not both are ready", func() error {
		s, err := c.state(ctx)
		if err != nil {
			return err
		}
		holds = ""
		for node := range c.devices {
			if s.Nodes[node].State != "ready" {
				return fmt.Errorf("%s is %+v", node, s.Nodes[node])
			}
			if len(s.Plan.Stages) == 1 && s.Plan.Stages[0].Node == node {
				holds = node
			} else {
				other = node
			}
		}
		if holds == "" {
			return fmt.Errorf("the stages are %+v", s.Plan.Stages)
		}
		return nil
	})
	return holds, other
}

// TestOtherClass has an answer go on at a device of another numerics class, and then back
// at the first: what was given stays, and the client is told by name each time.
// SHOAL_CHAOS_CLASSES says how often; SHOAL_TEST_GPU names a device, else the CPU plays it.
func TestOtherClass(t *testing.T) {
	times := howMany(t, "SHOAL_CHAOS_CLASSES", "make chaos-classes")
	ctx := within(t, 3*time.Minute+time.Duration(times)*time.Minute)
	c := startClasses(ctx, t)
	c.ready(ctx, t)
	request := roamerRequest(1)
	request["maxTokens"] = classTokens
	wrong := 0
	for i := range times {
		first, other := c.ready(ctx, t)
		undisturbed, err := (&roamer{urls: []string{c.url}, key: c.key}).ask(ctx, request, func() {})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.thereAndBack(ctx, t, request, undisturbed, first, other); err != nil {
			wrong++
			t.Errorf("%d, from %s to %s and back: %v", i, first, other, err)
			break
		}
	}
	saveChaos(t, "make chaos-classes",
		measure.Figure{Name: "class_changes", Unit: "times that an answer went on with another numerics class, accumulated", Value: float64(2 * (times - wrong))},
		measure.Figure{Name: "class_changes_failed", Unit: "answers of those that ended, or had other tokens than were given, accumulated", Value: float64(wrong)})
}

// thereAndBack reads an answer. After some tokens the node that computes it is killed, and
// when it is back and there were some more, the other one.
func (c classCluster) thereAndBack(ctx context.Context, t *testing.T, request object, want *progressOf, first, other string) error {
	t.Helper()
	var down string // to be started again
	frames, due := 0, classSome
	r := &roamer{urls: []string{c.url}, key: c.key}
	p, err := r.ask(ctx, request, func() {
		if frames++; frames < due {
			return
		}
		victim := first
		if down != "" { // it has gone on at the other
			c.startGPU(t, c.devices[down])
			c.waitReady(ctx, t, down)
			victim = other
		}
		c.nodes[c.devices[victim]].kill()
		if down, due = victim, due+3*classSome; victim == other {
			due = classTokens + 1
		}
	})
	if err != nil {
		return fmt.Errorf("after %d frames: %w", frames, err)
	}
	c.startGPU(t, c.devices[down])
	if p.seq != want.seq || len(p.moves) != 2 {
		return fmt.Errorf("%d tokens and %d changes of class, want %d and 2", p.seq, len(p.moves), want.seq)
	}
	there, back := p.moves[0], p.moves[1]
	text := p.text.String()
	t.Logf("%s to %s after %d bytes, back after %d of %d", first, other, there.at, back.at, len(text))
	switch {
	case p.fingerprint != want.fingerprint || there.fingerprint == p.fingerprint || back.fingerprint != p.fingerprint:
		return fmt.Errorf("fingerprints %s, %s, %s, undisturbed %s", p.fingerprint, there.fingerprint, back.fingerprint, want.fingerprint)
	case !strings.HasPrefix(want.text.String(), text[:there.at]):
		return fmt.Errorf("before the change it says %.200q, undisturbed %.200q", text[:there.at], want.text.String())
	case !slices.ContainsFunc(there.notes, func(n string) bool { return strings.Contains(n, "numerics class") }):
		return errors.New("no note says why")
	}
	return nil
}

// waitReady waits until a node can compute.
func (c classCluster) waitReady(ctx context.Context, t *testing.T, node string) {
	t.Helper()
	eventually(ctx, t, node+" does not come back", func() error {
		s, err := c.state(ctx)
		if err != nil {
			return err
		}
		if s.Nodes[node].State != "ready" {
			return fmt.Errorf("it is %+v", s.Nodes[node])
		}
		return nil
	})
}
