// Package bandwidth measures how fast threads can read memory in order, with
// nothing else to do: the limit of decoding, where each token reads all weights
// once.
package bandwidth

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

const (
	// turn is the bytes that a kernel reads at a time.
	turn = 512
	// stretch is the bytes of one call of a kernel: a small part of a
	// millisecond, during which it cannot be preempted.
	stretch = 256 << 10
	// streams is how many places of its part a thread reads at once. Processors
	// differ in whether one or several keep more loads in flight.
	streams = 4
)

// Region is memory to read, in huge pages where the system has them. It is safe
// for use by one goroutine at a time.
type Region struct {
	data []byte
	free func() error
	read func(p *byte, n int) uint64
}

// New makes a region of size bytes, rounded down to whole stretches of 256 KiB
// for each thread that reads it. It is written once, so that every page exists.
func New(size int) (*Region, error) {
	if size < stretch {
		return nil, fmt.Errorf("region of %d bytes: want %d or more", size, stretch)
	}
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

// Size returns the bytes that threads threads read in a pass.
func (r *Region) Size(threads int) int { return r.part(threads) * threads }

// part returns the bytes of one thread's part.
func (r *Region) part(threads int) int {
	const whole = stretch * streams
	if n := len(r.data) / threads; n >= whole {
		return n / whole * whole
	}
	return len(r.data) / threads / stretch * stretch
}

// Read has threads threads read the region passes times, each its own part, and
// returns bytes a second of the better of two orders: front to back, and from
// four places in turn.
func (r *Region) Read(threads, passes int) (float64, error) {
	if threads < 1 || passes < 1 || r.part(threads) == 0 {
		return 0, errors.New("read bandwidth: nothing to read")
	}
	return max(r.run(threads, passes, 1), r.run(threads, passes, streams)), nil
}

// run reads in one order and returns bytes a second, until the last is done.
func (r *Region) run(threads, passes, places int) float64 {
	part := r.part(threads)
	if part%(stretch*places) != 0 {
		places = 1
	}
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
		piece = 4 << 10
	}
	each := len(part) / places
	for at := 0; at < each; at += piece {
		for p := range places {
			r.read(&part[p*each+at], piece)
		}
	}
}

// portable reads n bytes from p.
func portable(p []byte) uint64 {
	var a, b, c, d uint64
	for ; len(p) >= 32; p = p[32:] {
		a |= word(p)
		b |= word(p[8:])
		c |= word(p[16:])
		d |= word(p[24:])
	}
	return a | b | c | d
}

// kernelOf is used where no level has loads of its own.
func kernelOf(quant.Level) func(p *byte, n int) uint64 { return nil }
