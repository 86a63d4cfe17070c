package main

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/pflag"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// deviceOptions say how to open the devices of this machine.
type deviceOptions struct {
	threads   int
	simd      string
	reference bool
	memory    string
}

func (o *deviceOptions) flags(f *pflag.FlagSet) {
	f.IntVar(&o.threads, "threads", 0, "CPU workers; 0 is one per physical core this process may use")
	f.StringVar(&o.simd, "simd", "auto", "CPU kernels: auto, amx, avx512, avx2, neon or portable; all give the same bits")
	f.BoolVar(&o.reference, "reference", false, "exact but slow arithmetic, to check answers against")
	f.StringVar(&o.memory, "max-mem", "", "memory for weights and caches, for example 6GiB; empty is what the machine has")
}

// openDevice opens the CPU. Other backends are one more line here.
func openDevice(o deviceOptions, log *slog.Logger) (compute.Backend, error) {
	level, err := parseLevel(o.simd)
	if err != nil {
		return nil, err
	}
	memory, err := parseBytes(o.memory)
	if err != nil {
		return nil, fmt.Errorf("--max-mem: %w", err)
	}
	return cpu.Open(cpu.Config{Threads: o.threads, Level: level, Reference: o.reference, Memory: memory, Log: log})
}

// Settings of the Go runtime beside a device. GOMAXPROCS and GOGC in the
// environment go before them.
const (
	spareProcessors = 1   // beside the workers
	gcPercent       = 400 // the heap may grow to five times what is live
)

// tuneRuntime fits the Go runtime to a process that computes.
//
// A worker keeps one of the runtime's processors while it computes, and for a
// while after, when it looks out for the next pass. With no more processors than
// workers, a token would wait for the pass of the next one before it leaves, so
// there is one more; the kernel shares the cores among the threads.
//
// Weights and caches lie outside the heap. What is left is small, and would be
// collected every few thousand tokens.
func tuneRuntime(be compute.Backend, log *slog.Logger) {
	want := be.Info().Threads + spareProcessors
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < want {
		runtime.GOMAXPROCS(want)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if err := batchThreads(); err != nil {
		log.Warn("threads are not batch work: tokens may take longer", "error", err)
	}
}

func parseLevel(s string) (*quant.Level, error) {
	if s == "auto" || s == "" {
		return nil, nil
	}
	for _, l := range []quant.Level{quant.Portable, quant.AVX2, quant.AVX512, quant.AMX, quant.NEON} {
		if l.String() == s {
			return &l, nil
		}
	}
	return nil, fmt.Errorf("--simd %q: want auto, amx, avx512, avx2, neon or portable", s)
}

// parseBytes reads a size such as 6GiB, 500MB or 1073741824.
func parseBytes(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	number := strings.TrimRight(s, "KMGTiBkmgtb ")
	units := map[string]float64{
		"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	}
	unit, ok := units[strings.ToLower(strings.TrimSpace(s[len(number):]))]
	var n float64
	if _, err := fmt.Sscanf(number, "%g", &n); !ok || err != nil || n <= 0 || n*unit > 1<<60 {
		return 0, fmt.Errorf("%q is not a size; write for example 6GiB", s)
	}
	return uint64(n * unit), nil
}
