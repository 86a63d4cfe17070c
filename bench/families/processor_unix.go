//go:build unix

package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// processorSeconds is what this process has used of processors, which others on the
// machine hardly change.
func processorSeconds() float64 {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds()
}
