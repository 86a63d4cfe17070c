package shard

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// TestOutbox: whatever is put, sent, taken and replayed in any order, frames go
// out in order with the rows they were put with, and never more are held than
// fit.
func TestOutbox(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOutbox(func() {})
		rows := make([]byte, 3) // lent: overwritten after each put
		var put, sent, taken uint64
		for range rapid.IntRange(1, 100).Draw(t, "moves") {
			switch rapid.SampledFrom([]string{"put", "send", "take", "replay"}).Draw(t, "move") {
			case "put":
				if fits := put-taken < frame.MaxPending; o.room(0) != fits {
					t.Fatalf("room after %d puts, %d taken: %t", put, taken, !fits)
				} else if fits {
					put++
					o.put(&frame.Frame{Step: put, Rows: append(rows[:0], byte(put), byte(put), byte(put))})
				}
			case "send":
				f := o.advance()
				if (f != nil) != (sent < put) {
					t.Fatalf("%d of %d sent, next is %v", sent, put, f)
				}
				if f != nil {
					sent++
					if want := bytes.Repeat([]byte{byte(sent)}, 3); f.Step != sent || !bytes.Equal(f.Rows, want) {
						t.Fatalf("step %d with rows %v, expected %d", f.Step, f.Rows, sent)
					}
				}
			case "take":
				step := rapid.Uint64Range(0, sent+1).Draw(t, "step")
				if err := o.took(step); (err != nil) != (step > sent) {
					t.Fatalf("took %d of %d: %v", step, sent, err)
				} else if err == nil {
					taken = max(taken, step)
				}
			case "replay":
				from := rapid.Uint64Range(0, put+1).Draw(t, "from")
				if err := o.replay(from); (err == nil) != (from > taken && from <= put) {
					t.Fatalf("replay from %d, %d taken, %d put: %v", from, taken, put, err)
				} else if err == nil {
					sent = min(sent, from-1)
				}
			}
		}
	})
}

// TestOutboxReusesMemory: a steady stream of steps costs no memory.
func TestOutboxReusesMemory(t *testing.T) {
	o := newOutbox(func() {})
	f := &frame.Frame{
		Rows: make([]byte, 1<<16), Timings: make([]frame.Timing, 3),
		Spans: []frame.Span{{Tokens: []int32{1, 2}}, {Tokens: []int32{3}}},
	}
	pass := func() {
		f.Step++
		o.put(f)
		if got := o.advance(); got.Step != f.Step {
			t.Fatalf("step %d went out, %d was put", got.Step, f.Step)
		}
		if err := o.took(f.Step); err != nil {
			t.Fatal(err)
		}
	}
	for range frame.MaxPending {
		pass()
	}
	if n := testing.AllocsPerRun(100, pass); n > 0 {
		t.Errorf("%v allocations a step", n)
	}
}

// TestOutboxKeepsCopies: what is put is lent, and may change before it is sent.
func TestOutboxKeepsCopies(t *testing.T) {
	o := newOutbox(func() {})
	f := &frame.Frame{
		Rows: []byte{1, 2}, Timings: []frame.Timing{{Stage: 5}},
		Spans: []frame.Span{{Slot: 1, Tokens: []int32{1, 2}}, {Slot: 2, Tokens: []int32{3}}},
	}
	for step := range uint64(3) {
		f.Step = step + 1
		f.Spans[0].Tokens[1], f.Spans[1].Slot, f.Timings[0].Rows, f.Rows[0] = int32(step), frame.Slot(step), uint32(step), byte(step)
		o.put(f)
	}
	for step := range uint64(3) {
		got := o.advance()
		if got.Spans[0].Tokens[1] != int32(step) || got.Spans[1].Slot != frame.Slot(step) || got.Spans[1].Tokens[0] != 3 ||
			got.Timings[0].Rows != uint32(step) || got.Rows[0] != byte(step) {
			t.Errorf("step %d is sent as %+v", step+1, got)
		}
	}
}
