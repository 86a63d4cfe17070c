// Package bandwidth measures how fast threads can read memory in order, with
// nothing else to do: the limit of decoding, where each token reads all weights
// once.
package bandwidth

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

const (
	// stretch is the bytes of one call of a kernel: a small part of a
	// millisecond, during which it cannot be preempted.
	stretch = 256 << 10
	// streams is how many places of its part a thread reads at once. Processors
	// differ in whether one or several keep more loads in flight.
	streams = 4
	// slice is the bytes read at one place before the next has its turn.
	slice = 4 << 10
)

// Region is memory to read, in huge pages where the system has them. It is safe
// for use by one goroutine at a time.
type Region struct {
	data []byte
	free func() error
	read func(p []byte) uint64 // a multiple of 512 bytes
}

// New makes a region of size bytes. It is written once, so that every page
// exists.
func New(size int) (*Region, error) {
	data, free, err := allocate(size)
	if err != nil {
		return nil, fmt.Errorf("region of %d bytes: %w", size, err)
	}
	for i := 0; i < len(data); i += 64 {
		data[i] = byte(i >> 6)
	}
	return &Region{data: data, free: free, read: kernel(p16.Best())}, nil
}

// Close frees the region.
func (r *Region) Close() error { return r.free() }

// Size returns the bytes of the region.
func (r *Region) Size() int { return len(r.data) }

// Read has threads threads read the first size bytes of the region passes
// times, each its own part, and returns bytes a second of the better of two
// orders: front to back, and from four places in turn. Each part is a whole
// number of MiB: up to a MiB of each is left out.
func (r *Region) Read(size, threads, passes int) (float64, error) {
	const whole = stretch * streams
	if size > len(r.data) || threads < 1 || passes < 1 || size/threads < whole {
		return 0, fmt.Errorf("read bandwidth: %d passes of %d threads over %d bytes of %d", passes, threads, size, len(r.data))
	}
	part := size / threads / whole * whole
	return max(r.run(part, threads, passes, 1), r.run(part, threads, passes, streams)), nil
}

// run reads in one order and returns bytes a second, until the last is done.
func (r *Region) run(part, threads, passes, places int) float64 {
	var ready, done sync.WaitGroup
	begin := make(chan struct{})
	ready.Add(threads)
	for t := range threads {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready.Done()
			<-begin
			for range passes {
				r.pass(r.data[t*part:][:part], places)
			}
		})
	}
	ready.Wait()
	start := time.Now()
	close(begin)
	done.Wait()
	return float64(part*threads*passes) / time.Since(start).Seconds()
}

// pass reads part once, from places places in turn.
func (r *Region) pass(part []byte, places int) {
	piece := stretch
	if places > 1 {
		piece = slice
	}
	each := len(part) / places
	for at := 0; at < each; at += piece {
		for p := range places {
			r.read(part[p*each+at:][:piece])
		}
	}
}

// readWords reads p, a multiple of 32 bytes, word by word, and returns the OR of
// all: the kernel where the processor has no better one.
func readWords(p []byte) uint64 {
	var a, b, c, d uint64
	for ; len(p) >= 32; p = p[32:] {
		a |= binary.NativeEndian.Uint64(p)
		b |= binary.NativeEndian.Uint64(p[8:])
		c |= binary.NativeEndian.Uint64(p[16:])
		d |= binary.NativeEndian.Uint64(p[24:])
	}
	return a | b | c | d
}
