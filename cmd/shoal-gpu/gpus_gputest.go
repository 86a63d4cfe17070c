//go:build gputest && unix

package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/shoal-llm/shoal/internal/supervise"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
)

// playedEnv, in the environment, has the CPU play GPUs: "right", or "wrong" for one
// whose every second result is wrong.
const playedEnv = "SHOAL_GPU_PLAYED"

// gpus is a driver for tests of faults: at SIGUSR1 the device is lost, as a native
// library would report it.
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
	wrong bool
	told  chan os.Signal
	done  chan compute.Completion
	reads chan []compute.Read // of passes in flight
}

func newFaulty(be compute.Backend, wrong bool) *faulty {
	f := &faulty{
		Backend: be, wrong: wrong, told: make(chan os.Signal, 1),
		done: make(chan compute.Completion, compute.MaxPasses), reads: make(chan []compute.Read, compute.MaxPasses+1),
	}
	signal.Notify(f.told, syscall.SIGUSR1)
	go f.forward()
	return f
}

// forward passes completions on until the device is closed, or lost: then passes
// in flight fail, and there are no more.
func (f *faulty) forward() {
	defer close(f.done)
	lost := false
	for {
		select {
		case <-f.told:
			lost = true
		case c, ok := <-f.Backend.Completions():
			if !ok {
				return
			}
			reads := <-f.reads
			if f.wrong && len(reads) > 0 {
				reads[0].Dst[0] += 1e6
			}
			if lost {
				c.Err = fmt.Errorf("injected fault: %w", compute.ErrLost)
			}
			f.done <- c
		}
		if lost && len(f.reads) == 0 {
			return
		}
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
