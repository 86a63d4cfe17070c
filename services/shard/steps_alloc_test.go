//go:build !race

package shard

import "testing"

// maxAllocations bounds what a step of two stages allocates, however many
// sessions it has: messages and buffers of the codec, and the copy of the result.
// An engine allocates nothing (pkg/engine).
const maxAllocations = 40

// TestStepsAllocateLittle holds the whole step of two shards to a number of
// allocations that does not grow with its sessions.
func TestStepsAllocateLittle(t *testing.T) {
	for _, sessions := range []int{1, 16} {
		l := newLine(t, sessions)
		for range 20 {
			l.step()
		}
		if n := testing.AllocsPerRun(50, func() { l.step() }); n > maxAllocations {
			t.Errorf("%v allocations in a step of %d sessions", n, sessions)
		}
	}
}
