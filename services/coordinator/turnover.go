package coordinator

import "time"

// turnover is how fast places come free while requests wait for one. It foretells the
// wait of one more.
type turnover struct {
	last  time.Time // a place was taken, or the first request began to wait; zero: none waits
	every float64   // seconds between places, in the mean
	n     int       // that it is the mean of
}

const (
	turnoverEnough = 8       // places before the mean counts
	turnoverFollow = 1.0 / 8 // weight of the latest
)

// waits notes that there are requests without a place.
func (t *turnover) waits(now time.Time) {
	if t.last.IsZero() {
		t.last = now
	}
}

// placed notes that a request got a place; more still wait, or none.
func (t *turnover) placed(now time.Time, more bool) {
	if !t.last.IsZero() {
		t.n++
		t.every += (now.Sub(t.last).Seconds() - t.every) * max(turnoverFollow, 1/float64(t.n))
	}
	t.last = time.Time{}
	if more {
		t.last = now
	}
}

// wait returns how long a request behind n others is likely to wait, 0 while that is not
// known.
func (t *turnover) wait(n int) time.Duration {
	if n == 0 || t.n < turnoverEnough {
		return 0
	}
	return time.Duration(t.every * float64(n+1) * float64(time.Second))
}
