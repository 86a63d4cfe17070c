package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/pkg/compute"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// device is a device and the goroutine that owns it, with all stages on it.
type device struct {
	index       int
	be          compute.Backend
	fingerprint [32]byte
	variant     string
	bandwidth   func() (float64, error)
	reference   func() (compute.Backend, error)
	tolerance   compute.Tolerance
	telemetry   *telemetry.Telemetry
	log         *slog.Logger

	wake     chan struct{} // capacity 1: a stage has a frame, or room for one
	commands chan func()   // to run on the owner

	worked atomic.Int64 // Unix nanoseconds when the last step ended

	emptied chan struct{} // capacity 1: a stage that was dropped is gone

	// Of the owner:
	weights *weights
	stages  []*stage
	turn    int
	passes  []work // submitted, oldest first; at most compute.MaxPasses
	lastTag uint64
}

func newDevice(index int, d Device, t *telemetry.Telemetry, log *slog.Logger) *device {
	return &device{
		index: index, be: d.Backend, fingerprint: d.Fingerprint, variant: d.Variant, bandwidth: d.Bandwidth, telemetry: t, log: log,
		reference: d.Reference, tolerance: d.Tolerance,
		wake: make(chan struct{}, 1), commands: make(chan func()), emptied: make(chan struct{}, 1),
		weights: newWeights(d.Backend),
	}
}

// poke tells the owner that there may be something to start.
func (d *device) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// do runs f on the owner and waits for it. Once the owner has taken f, do waits to
// its end whatever becomes of ctx: what f reads stays the caller's until then.
func (d *device) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case d.commands <- func() { defer close(done); f() }:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run owns the device until ctx ends. It waits for events only, never for the
// device.
func (d *device) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			d.abandon()
			return nil
		case f := <-d.commands:
			f()
		case <-d.wake:
		case c, ok := <-d.be.Completions():
			if !ok {
				return fmt.Errorf("device %d: its backend was closed", d.index)
			}
			d.finish(c)
			if errors.Is(c.Err, compute.ErrLost) {
				return fmt.Errorf("device %d: %w", d.index, c.Err)
			}
		}
		d.start()
	}
}

// start submits waiting frames, one a stage in turn, while the device takes
// more.
func (d *device) start() {
	for idle := 0; idle < len(d.stages) && len(d.passes) < compute.MaxPasses; {
		d.turn = (d.turn + 1) % len(d.stages)
		if d.startOne(d.stages[d.turn]) {
			idle = 0
		} else {
			idle++
		}
	}
}

func (d *device) startOne(st *stage) bool {
	if !st.room() && !st.pipe.fuse.blown() {
		return false
	}
	select {
	case a := <-st.in:
		if st.pipe.fuse.blown() {
			a.push.Release()
			return true
		}
		d.lastTag++
		if w, ok := st.start(a, d.lastTag); ok {
			d.passes = append(d.passes, w)
		}
		return true
	default:
		return false
	}
}

// finish takes a completion: they come in the order of submission.
func (d *device) finish(c compute.Completion) {
	if len(d.passes) == 0 || d.passes[0].tag != c.Tag {
		panic(fmt.Sprintf("shard: device %d completed pass %d out of order", d.index, c.Tag))
	}
	d.worked.Store(time.Now().UnixNano())
	w := d.passes[0]
	d.passes[0] = work{}
	d.passes = d.passes[:copy(d.passes, d.passes[1:])]
	w.stage.finish(w, c)
	d.closeDropped()
}

// add takes a loaded stage, and the draft model beside it. It runs on the owner.
func (d *device) add(st *stage, e Engine, draft *drafter) {
	st.engine, st.drafter = e, draft
	d.stages = append(d.stages, st)
}

// clear gives up the stages of ended pipelines, and returns when they are gone:
// frames on the device finish first.
func (d *device) clear(ctx context.Context) error {
	for {
		left := 0
		if err := d.do(ctx, func() { left = d.drop() }); err != nil || left == 0 {
			return err
		}
		select {
		case <-d.emptied:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// drop closes the stages of ended pipelines and returns how many have frames on
// the device still. It runs on the owner.
func (d *device) drop() (left int) {
	for _, st := range d.stages {
		st.dropped = st.dropped || st.pipe.fuse.blown()
	}
	d.closeDropped()
	for _, st := range d.stages {
		if st.dropped {
			left++
		}
	}
	return left
}

// sweep frees the weights that no stage uses. It runs on the owner.
func (d *device) sweep() {
	if _, err := d.weights.sweep(); err != nil {
		d.log.Error("free weights", "device", d.index, "err", err)
	}
}

// tenant is the device as a stage that is being loaded sees it.
func (d *device) tenant(ctx context.Context, m *Model) *tenant {
	return &tenant{Backend: d.be, weights: d.weights, model: m.Digest, turn: func(f func()) error { return d.do(ctx, f) }}
}

func (d *device) closeDropped() {
	kept := d.stages[:0]
	for _, st := range d.stages {
		if !st.dropped || st.running > 0 {
			kept = append(kept, st)
			continue
		}
		select {
		case d.emptied <- struct{}{}:
		default:
		}
		st.empty()
		if err := errors.Join(st.engine.Close(), st.drafter.close()); err != nil {
			d.log.Error("a stage gave back less than it took", "epoch", st.pipe.epoch, "error", err)
		}
	}
	clear(d.stages[len(kept):])
	d.stages = kept
}

// empty releases the frames that nobody will compute.
func (st *stage) empty() {
	for {
		select {
		case a := <-st.in:
			a.push.Release()
		default:
			return
		}
	}
}

// abandon waits for the passes on the device, so that their memory may go.
func (d *device) abandon() {
	for len(d.passes) > 0 {
		c, ok := <-d.be.Completions()
		if !ok {
			return
		}
		d.finish(c)
	}
}

// describe says what the device is, for a handshake.
func (d *device) describe() *pb.Device {
	info := d.be.Info()
	out := &pb.Device{
		Index: uint32(d.index), Kind: info.Kind, Name: info.Name, NumericsClass: info.Class,
		Fingerprint: d.fingerprint[:], MemoryBytes: info.Memory, Threads: uint32(info.Threads),
		NumaNodes: uint32(info.NUMA.Nodes),
	}
	for _, n := range info.NUMA.On {
		out.OnNumaNodes = append(out.OnNumaNodes, uint32(n))
	}
	return out
}
