package shard

import (
	"context"
	"fmt"
	"sync"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// outbox holds the frames that the next stage has not taken yet: those to be
// sent, and those to be sent again if it asks. The owner of the device puts, one
// goroutine sends, another hears what was taken. Its memory is used again.
type outbox struct {
	mu    sync.Mutex
	ring  [frame.MaxPending]held // guarded by mu; step s is at s mod the length
	taken uint64                 // guarded by mu; the newest step the next stage has
	sent  uint64                 // guarded by mu; the newest step that was sent
	last  uint64                 // guarded by mu; the newest step that was put

	wake  chan struct{} // capacity 1: there is something to send
	freed func()        // called when there is room again
}

func newOutbox(room func()) *outbox {
	return &outbox{wake: make(chan struct{}, 1), freed: room}
}

func (o *outbox) at(step uint64) *held { return &o.ring[step%uint64(len(o.ring))] }

// held is a copy of a frame.
type held struct {
	frame  frame.Frame
	tokens []int32 // of all spans
}

// copy takes a frame's place with another one. Operations are shared: nobody
// changes them.
func (h *held) copy(f *frame.Frame) {
	rows, timings := append(h.frame.Rows[:0], f.Rows...), append(h.frame.Timings[:0], f.Timings...)
	spans := append(h.frame.Spans[:0], f.Spans...)
	h.frame, h.tokens = *f, h.tokens[:0]
	h.frame.Rows, h.frame.Timings, h.frame.Spans = rows, timings, spans
	for i := range spans {
		from := len(h.tokens)
		h.tokens = append(h.tokens, spans[i].Tokens...)
		spans[i].Tokens = h.tokens[from:len(h.tokens):len(h.tokens)]
	}
}

// room reports whether one more frame fits besides running ones that will come.
func (o *outbox) room(running int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return int(o.last-o.taken)+running < len(o.ring)
}

// put adds a copy of the next step's frame, which an engine or a codec lends. There
// must be room.
func (o *outbox) put(f *frame.Frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last-o.taken >= uint64(len(o.ring)) || o.last != 0 && f.Step != o.last+1 {
		panic(fmt.Sprintf("shard: step %d put after %d, of which %d are taken", f.Step, o.last, o.taken))
	}
	if o.last == 0 {
		o.taken, o.sent = f.Step-1, f.Step-1
	}
	o.at(f.Step).copy(f)
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
	return &o.at(o.sent).frame
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
