package driver

import (
	"testing"
	"time"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// Steps that give no ids, of sessions that fail one after the other, say nothing
// about lanes: the next session is served.
func TestFailingSessionsLeaveALane(t *testing.T) {
	m, err := New(Config{Stages: 1, Slots: 2, Pages: 64, Context: 256, Rows: 64, Chunk: 64, Lanes: 3, InFlight: 4, Target: 50 * time.Millisecond, Cached: 8})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1, 0)
	step := func(ev Event) Output {
		now = now.Add(time.Millisecond)
		out, err := m.Step(now, ev)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for i := range 20 {
		a := uint32(i + 1)
		out := step(Submit{Open: &frame.Open{Attempt: a, AnswerStart: 3}, Tokens: []int32{1, 2, 3}, Ahead: 32})
		pos := int32(3)
		for n := 0; len(out.Send) > 0 && n < 5; n++ {
			f := out.Send[0]
			r := &frame.Result{Step: f.Step, Timings: []frame.Timing{{Rows: 1, ComputeNS: 1000}}}
			if len(f.Spans) > 0 {
				s := frame.Sampled{Attempt: a, Position: pos, IDs: []int32{7}}
				if n > 0 {
					s.IDs, s.Err = nil, "numeric_error: not a number"
				}
				r.Sampled = []frame.Sampled{s}
				pos++
			}
			out = step(Returned{Result: r})
		}
	}
	if out := step(Submit{Open: &frame.Open{Attempt: 100, AnswerStart: 3}, Tokens: []int32{1, 2, 3}, Ahead: 32}); len(out.Send) == 0 {
		t.Error("nothing is sent for the next session")
	}
}
