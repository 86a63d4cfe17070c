package wire

import (
	"testing"
	"time"
)

// TestSilence: silence is counted while the one who listens runs; what it missed because
// it was stopped itself is not the other's silence.
func TestSilence(t *testing.T) {
	const look = BeatEvery / 2
	now, heard := time.Unix(1, 0), uint64(0)
	var s Silence
	until := func(what string, want time.Duration) {
		t.Helper()
		looks := time.Duration(0)
		for s.Look(now, heard) <= LostAfter {
			if now = now.Add(look); looks > 2*LostAfter {
				t.Fatalf("%s: never lost", what)
			}
			looks += look
		}
		if looks < want-BeatEvery || looks > want+BeatEvery {
			t.Errorf("%s: lost after %v, want about %v", what, looks, want)
		}
	}
	until("never heard", LostAfter)
	heard++
	until("heard once", LostAfter)
	heard++
	if s.Look(now, heard) != 0 {
		t.Error("it was heard and is taken to be silent")
	}
	now = now.Add(time.Hour) // stopped
	if got := s.Look(now, heard); got > LostAfter/2 {
		t.Errorf("after an hour in which nobody listened the silence is %v", got)
	}
	until("after that", LostAfter/2)
}
