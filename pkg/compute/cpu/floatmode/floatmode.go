// Package floatmode reads how a thread rounds: MXCSR on amd64, FPCR on arm64.
//
// The bits of a numerics class hold for the mode that Go threads begin with:
// rounding to nearest even, denormal numbers kept. The mode belongs to the
// thread, not to the goroutine. Libraries built for fast arithmetic change it for
// the thread that loads or calls them, and drivers do for those that call back.
package floatmode

import "strings"

// Mode is the control register of a thread's floating-point unit. Elsewhere than
// on amd64 and arm64 it is always 0.
type Mode uint32

// Read returns the mode of the calling thread.
func Read() Mode { return Mode(read()) }

// Write sets the mode of the calling thread, to which the caller has locked its
// goroutine. Other bits than those of Read's must stay as they were.
func Write(m Mode) { write(uint32(m)) }

// Deviations says in words how a mode departs from the one that Go threads begin
// with, as far as results depend on it. It is empty for a mode that does not.
func (m Mode) Deviations() string {
	if m&all == 0 {
		return ""
	}
	var words []string
	for _, b := range deviations {
		if m&b.bits != 0 {
			words = append(words, b.words)
		}
	}
	return strings.Join(words, ", ")
}

// deviation is a field of the register that must be zero.
type deviation struct {
	bits  Mode
	words string
}
