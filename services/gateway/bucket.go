package gateway

import "time"

// Rates of what a client may send over one socket, beyond which it is closed.
const (
	framesPerSecond = 100
	frameBurst      = 400
	pingsPerSecond  = 20
	pingBurst       = 100
	floodText       = "too many frames"
)

// bucket is a token bucket. It belongs to one goroutine.
type bucket struct {
	rate, most float64
	level      float64
	at         time.Time
}

func newBucket(perSecond, burst float64) *bucket {
	return &bucket{rate: perSecond, most: burst, level: burst}
}

// take reports whether one more is within the rate.
func (b *bucket) take(now time.Time) bool {
	if !b.at.IsZero() {
		b.level = min(b.most, b.level+b.rate*now.Sub(b.at).Seconds())
	}
	b.at = now
	if b.level < 1 {
		return false
	}
	b.level--
	return true
}
