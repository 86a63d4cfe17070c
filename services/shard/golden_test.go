package shard

import (
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// exact opens the CPU's exact arithmetic.
func exact() (compute.Backend, error) {
	return cpu.Open(cpu.Config{Threads: 1, Reference: true})
}

// TestGolden: a layer of every stage is held against the reference before the
// stage serves; a device that is farther off than its tolerance is refused with
// the layer and the error.
func TestGolden(t *testing.T) {
	b := newBench(t, 0)
	good := func(d *Device) { d.Reference, d.Tolerance = exact, compute.Int8 }
	strict := func(d *Device) { d.Reference, d.Tolerance = exact, compute.Float }
	first, last, bad := b.startReal("first", "", good), b.startReal("last", "", good), b.startReal("bad", "", strict)
	boss := b.boss("boss")
	p := b.tinyPlan(first, last)
	for _, n := range []*node{first, last, bad} {
		boss.lease(n)
	}
	for _, n := range []*node{first, last} {
		boss.send(n, p)
	}
	boss.ready(first)
	boss.ready(last)
	for i, c := range []struct {
		plan  *pb.Plan
		layer string
	}{{b.tinyPlan(bad, first), "layer 0"}, {b.tinyPlan(first, bad), "layer 4"}} {
		c.plan.Epoch = uint64(2 + i)
		boss.send(bad, c.plan)
		why := boss.failure(bad, c.plan.Epoch)
		if !strings.Contains(why, "the device computes wrongly") || !strings.Contains(why, c.layer) {
			t.Errorf("a device that is off says %q, want %q", why, c.layer)
		}
	}
}

// TestGoldenBatch: a device whose kernels for many rows give other bits than those for
// a few is refused, though each by itself is near the reference.
func TestGoldenBatch(t *testing.T) {
	b := newBench(t, 0)
	good := func(d *Device) { d.Reference, d.Tolerance = exact, compute.Int8 }
	bad := func(d *Device) { good(d); d.Backend = uneven{d.Backend} }
	first, last := b.startReal("first", "", good), b.startReal("last", "", bad)
	boss := b.boss("boss")
	boss.lease(last)
	boss.send(last, b.tinyPlan(first, last))
	if why := boss.failure(last, 1); !strings.Contains(why, "the device computes wrongly") || !strings.Contains(why, "29 others") {
		t.Errorf("a device with two kinds of bits says %q", why)
	}
}

// uneven is a device that adds a product twice where there are many rows.
type uneven struct{ compute.Backend }

func (u uneven) Begin(b *compute.Batch) compute.Pass {
	p := u.Backend.Begin(b)
	if b.Rows > goldenRows {
		return twice{p}
	}
	return p
}

type twice struct{ compute.Pass }

func (t twice) LinearAdd(x compute.Buffer, w compute.Weight, y compute.Buffer) {
	t.Pass.LinearAdd(x, w, y)
	t.Pass.LinearAdd(x, w, y)
}
