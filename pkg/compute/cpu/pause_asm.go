//go:build amd64 || arm64

package cpu

// pause tells the processor that the thread spins: it frees the core's other
// thread and the bus for some tens of nanoseconds.
//
//go:noescape
func pause()
