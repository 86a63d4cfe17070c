//go:build gputest && unix

package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/shoal-llm/shoal/internal/supervise"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
)

// playedEnv, in the environment, has the CPU play GPUs: "right", or "wrong" for one
// whose every second result is wrong.
const playedEnv = "SHOAL_GPU_PLAYED"

// gpus is a driver for tests of faults: SIGUSR1 has the device fail from the next
// pass on, as a native library would report it.
func gpus() driver {
	d := webGPUs()
	role := os.Getenv(playedEnv)
	if role != "" {
		d = playedGPUs()
	}
	open := d.open
	d.open = func(a supervise.Adapter, o openOptions) (compute.Backend, error) {
		be, err := open(a, o)
		if err != nil {
			return nil, err
		}
		return newFaulty(be, role == "wrong"), nil
	}
	return d
}

// playedGPUs is a driver whose one device is the CPU, computing exactly as a GPU
// does.
func playedGPUs() driver {
	return driver{
		adapters: func() ([]supervise.Adapter, error) {
			return []supervise.Adapter{{Name: "Played GPU", API: "played", Driver: "none", Memory: 1 << 30}}, nil
		},
		open: func(_ supervise.Adapter, o openOptions) (compute.Backend, error) {
			return cpu.Open(cpu.Config{Threads: 1, Reference: true, Memory: o.memory, Log: slog.New(slog.DiscardHandler)})
		},
	}
}

// faulty is a device that fails when it is told to.
type faulty struct {
	compute.Backend
	failing atomic.Bool
	wrong   bool
	done    chan compute.Completion
	reads   chan []compute.Read // of passes in flight
}

func newFaulty(be compute.Backend, wrong bool) *faulty {
	f := &faulty{
		Backend: be, wrong: wrong,
		done: make(chan compute.Completion, compute.MaxPasses), reads: make(chan []compute.Read, compute.MaxPasses+1),
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	go func() {
		<-told
		f.failing.Store(true)
	}()
	go f.forward()
	return f
}

// forward passes completions on, until the device is closed.
func (f *faulty) forward() {
	defer close(f.done)
	for c := range f.Backend.Completions() {
		reads := <-f.reads
		if f.wrong && len(reads) > 0 {
			reads[0].Dst[0] += 1e6
		}
		if f.failing.Load() {
			c.Err = fmt.Errorf("injected fault: %w", compute.ErrLost)
		}
		f.done <- c
	}
}

// Completions implements compute.Backend.
func (f *faulty) Completions() <-chan compute.Completion { return f.done }

// Begin implements compute.Backend.
func (f *faulty) Begin(b *compute.Batch) compute.Pass { return faultyPass{f.Backend.Begin(b), f} }

type faultyPass struct {
	compute.Pass
	f *faulty
}

// Submit implements compute.Pass.
func (p faultyPass) Submit(tag uint64, reads ...compute.Read) {
	p.f.reads <- append([]compute.Read(nil), reads...)
	p.Pass.Submit(tag, reads...)
}
