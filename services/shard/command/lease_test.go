package command

import (
	"testing"
	"time"
)

// TestLease: a lease keeps others away until it has run out, whoever they are.
func TestLease(t *testing.T) {
	now := time.Now()
	var l lease
	for _, c := range []struct {
		who  string
		at   time.Duration
		ask  time.Duration
		want bool
	}{
		{"", 0, 0, false},
		{"a", 0, time.Hour, true}, // at most maxLease
		{"b", maxLease - 1, 0, false},
		{"a", maxLease - 1, 2 * time.Second, true},
		{"b", maxLease + time.Second, 0, false},
		{"b", maxLease + 2*time.Second, 0, true},
		{"a", maxLease + 3*time.Second, 0, false},
	} {
		if got := l.grant(c.who, c.ask, now.Add(c.at)); got != c.want {
			t.Errorf("%q asks at %v: %t, want %t", c.who, c.at, got, c.want)
		}
	}
	if l.held("a", now.Add(maxLease+3*time.Second)) || !l.held("b", now.Add(maxLease+3*time.Second)) {
		t.Error("the wrong one holds the lease")
	}
}
