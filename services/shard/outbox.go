package shard

import (
	"context"
	"fmt"
	"sync"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// outbox holds the frames that the next stage has not taken yet: those to be
// sent, and those to be sent again if it asks. The owner of the device puts, one
// goroutine sends, another hears what was taken. Memory of rows is kept and used
// again.
type outbox struct {
	mu    sync.Mutex
	ring  [frame.MaxPending]frame.Frame // guarded by mu; step s is at s mod the length
	taken uint64                        // guarded by mu; the newest step the next stage has
	sent  uint64                        // guarded by mu; the newest step that was sent
	last  uint64                        // guarded by mu; the newest step that was put

	wake  chan struct{} // capacity 1: there is something to send
	freed func()        // called when there is room again
}

func newOutbox(room func()) *outbox {
	return &outbox{wake: make(chan struct{}, 1), freed: room}
}

func (o *outbox) at(step uint64) *frame.Frame { return &o.ring[step%uint64(len(o.ring))] }

// room reports whether one more frame fits besides running ones that will come.
func (o *outbox) room(running int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return int(o.last-o.taken)+running < len(o.ring)
}

// put adds the next step's frame, of which it copies the rows. There must be
// room.
func (o *outbox) put(f *frame.Frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last-o.taken >= uint64(len(o.ring)) || o.last != 0 && f.Step != o.last+1 {
		panic(fmt.Sprintf("shard: step %d put after %d, of which %d are taken", f.Step, o.last, o.taken))
	}
	if o.last == 0 {
		o.taken, o.sent = f.Step-1, f.Step-1
	}
	slot := o.at(f.Step)
	rows := append(slot.Rows[:0], f.Rows...)
	*slot = *f
	slot.Rows = rows
	o.last = f.Step
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// next waits for the next frame to send. The frame stays as it is until it is
// taken.
func (o *outbox) next(ctx context.Context) (*frame.Frame, error) {
	for {
		if f := o.advance(); f != nil {
			return f, nil
		}
		select {
		case <-o.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (o *outbox) advance() *frame.Frame {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sent == o.last {
		return nil
	}
	o.sent++
	return o.at(o.sent)
}

// took notes that the next stage has all steps up to one.
func (o *outbox) took(step uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if step > o.sent {
		return fmt.Errorf("step %d was taken, %d were sent", step, o.sent)
	}
	if step > o.taken {
		o.taken = step
		o.freed()
	}
	return nil
}

// replay sends again from a step on.
func (o *outbox) replay(from uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if from <= o.taken || from > o.last {
		return fmt.Errorf("replay from step %d, held are %d to %d", from, o.taken+1, o.last)
	}
	o.sent = min(o.sent, from-1)
	o.signal()
	return nil
}
