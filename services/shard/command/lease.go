package command

import "time"

// maxLease is the longest a coordinator can command a shard without a word.
const maxLease = 10 * time.Second

// lease says which coordinator commands the shard. Whatever epoch another
// offers, it gets nothing before the lease has run out.
type lease struct {
	holder string
	until  time.Time
}

// free reports whether coordinator may have the lease.
func (l *lease) free(coordinator string, now time.Time) bool {
	return l.holder == "" || l.holder == coordinator || !now.Before(l.until)
}

// grant gives the lease, or more of it; false if another holds it. Durations
// of zero and above maxLease are maxLease.
func (l *lease) grant(coordinator string, d time.Duration, now time.Time) bool {
	if coordinator == "" || !l.free(coordinator, now) {
		return false
	}
	if d <= 0 || d > maxLease {
		d = maxLease
	}
	l.holder, l.until = coordinator, now.Add(d)
	return true
}

// held reports whether coordinator holds the lease now.
func (l *lease) held(coordinator string, now time.Time) bool {
	return l.holder == coordinator && now.Before(l.until)
}
