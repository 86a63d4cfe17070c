package shard

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
)

// maxInFlight bounds the steps a driver has on their way: what the first stage
// can hold.
const maxInFlight = frame.MaxPending

// stage is a contiguous range of layers on one of this node's devices.
type stage struct {
	pipe  *pipeline
	index int
	dev   *device
	label string // for telemetry

	ready atomic.Bool  // it is loaded
	fed   atomic.Bool  // somebody feeds it
	in    chan arrival // frames to compute; the one feeder waits when it is full
	out   *outbox      // frames for the next stage; nil on the last

	begun bool // of the loader: it has begun to load the stage

	// Of the goroutine that owns the device:
	engine  Engine
	drafter *drafter // nil: no model guesses for the pipeline, or the stage is not its first
	running int      // frames between Start and Finish
	dropped bool
}

// arrival is a frame that waits for the device.
type arrival struct {
	push *wire.Push
	at   time.Time
}

// work is a frame on the device.
type work struct {
	stage *stage
	push  *wire.Push
	tag   uint64
	wait  time.Duration // between arrival and start
}

func newStage(p *pipeline, index int, dev *device) *stage {
	st := &stage{
		pipe: p, index: index, dev: dev, label: strconv.Itoa(index),
		in: make(chan arrival, frame.MaxPending),
	}
	if index < p.last() {
		st.out = newOutbox(dev.poke)
	}
	return st
}

// feed gives the stage a frame. It waits while the stage is behind, and returns
// false when the pipeline has ended. A stage has one feeder.
func (st *stage) feed(p *wire.Push) bool {
	select {
	case st.in <- arrival{p, time.Now()}:
		st.dev.poke()
		return true
	case <-st.pipe.fuse.done:
		p.Release()
		return false
	}
}

// room reports whether what another frame becomes can be put somewhere.
func (st *stage) room() bool { return st.out == nil || st.out.room(st.running) }

// start gives a frame to the device. A fault ends the pipeline.
func (st *stage) start(a arrival, tag uint64) (work, bool) {
	if err := st.engine.Start(tag, a.push.Frame); err != nil {
		a.push.Release()
		st.fault(err)
		return work{}, false
	}
	st.running++
	return work{stage: st, push: a.push, tag: tag, wait: time.Since(a.at)}, true
}

// finish takes what a frame became.
func (st *stage) finish(w work, c compute.Completion) {
	out, err := st.engine.Finish(c)
	st.running--
	switch {
	case err != nil:
		st.fault(err)
	case st.pipe.fuse.blown():
	default:
		st.emit(w, c, out)
	}
	w.push.Release()
}

func (st *stage) emit(w work, c compute.Completion, out engine.Output) {
	t := st.dev.telemetry
	t.ObserveStage(st.label, c.Elapsed, w.push.Frame.NumRows())
	t.ObserveStageWait(st.label, w.wait)
	used, capacity := st.engine.Pages()
	t.SetKV(st.label, used, capacity)
	if n := evictions(w.push.Frame); n > 0 {
		t.AddKVEvictions(st.label, n)
	}
	if out.Result != nil {
		setWait(out.Result.Timings, w.wait)
		st.pipe.results.publish(out.Result)
		return
	}
	setWait(out.Frame.Timings, w.wait)
	st.out.put(out.Frame)
}

// evictions counts the pages that a frame takes from the prefix cache.
func evictions(f *frame.Frame) (n int) {
	for i := range f.Ops {
		if f.Ops[i].Evict != nil {
			n++
		}
	}
	return n
}

// setWait completes this stage's timing, which is the newest.
func setWait(ts []frame.Timing, wait time.Duration) {
	if n := len(ts); n > 0 {
		ts[n-1].WaitNS = uint64(wait)
	}
}

func (st *stage) fault(err error) { st.pipe.fuse.blow(st.index, err) }
