package registry

import (
	"slices"
	"testing"
	"time"
)

// TestRotationNeverCutsNodesOff: whatever phases two nodes are in that are at most
// one step apart, each decrypts what the other encrypts.
func TestRotationNeverCutsNodesOff(t *testing.T) {
	now := time.Unix(0, 0)
	times := DefaultTimes()
	r := newRotation(now)
	states := [][][32]byte{r.keys()}
	first := r.keys()[0]
	r.begin(now)
	states = append(states, r.keys())
	for r.Phase != phaseIdle {
		if now = now.Add(time.Second); r.step(now, times, true) {
			states = append(states, r.keys())
		}
		if now.After(time.Unix(600, 0)) {
			t.Fatal("it does not end")
		}
	}
	for i := range states[1:] {
		for _, pair := range [][2][][32]byte{{states[i], states[i+1]}, {states[i+1], states[i]}} {
			if !slices.Contains(pair[1], pair[0][0]) {
				t.Errorf("after step %d a node is not understood", i)
			}
		}
	}
	if len(states) != 4 || states[3][0] == first || len(states[3]) != 1 {
		t.Errorf("%d states, the last has %d keys", len(states), len(states[3]))
	}
}

func TestRotationWaits(t *testing.T) {
	now := time.Unix(0, 0)
	times := DefaultTimes()
	r := newRotation(now)
	if r.step(now.Add(times.Every-1), times, true) {
		t.Error("it begins too early")
	}
	if now = now.Add(times.Every); !r.step(now, times, true) || r.Phase != phaseAdding {
		t.Error("it does not begin by itself")
	}
	if r.step(now.Add(2*times.Settle), times, false) {
		t.Error("a key is used that a node does not hold")
	}
	if !r.step(now.Add(times.Patience), times, false) || r.Phase != phaseUsing {
		t.Error("a node that does not answer holds everybody up")
	}
	r.begin(now) // during a rotation: another follows
	for range 3 {
		now = now.Add(time.Hour)
		r.step(now, times, true)
	}
	if r.Phase != phaseUsing || r.Again {
		t.Errorf("no second rotation: %s", r.String())
	}
	bad := []rotation{{}, {Keys: []string{"x"}}, {Keys: r.Keys, Phase: "other"}, {Keys: r.Keys[:1], Phase: phaseUsing}}
	for _, b := range bad {
		if b.check() == nil {
			t.Errorf("%+v is taken", b)
		}
	}
}
