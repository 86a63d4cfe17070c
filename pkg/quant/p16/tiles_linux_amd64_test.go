package p16_test

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// TestTilesOutliveSignals interrupts a thread that is inside a wide kernel: by
// the signal with which the runtime preempts goroutines and by the profiler's,
// whose handler walks the stack. The kernel saves 8 KiB of tile registers to the
// signal stack each time, and brings them back.
func TestTilesOutliveSignals(t *testing.T) {
	if !slices.Contains(p16.Levels(), quant.AMX) {
		t.Skip("this machine has no AMX")
	}
	var profile bytes.Buffer
	if err := pprof.StartCPUProfile(&profile); err != nil {
		t.Fatal(err)
	}
	defer pprof.StopCPUProfile()

	const signals = 300
	var done atomic.Bool
	defer done.Store(true)
	thread := make(chan int)
	wrong := make(chan int)
	go func() { wrong <- multiplyUntil(&done, thread) }()
	tid := <-thread
	for i := range signals {
		s := []syscall.Signal{unix.SIGURG, unix.SIGPROF}[i%2]
		if err := unix.Tgkill(unix.Getpid(), tid, s); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			runtime.GC()
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 20_000}, nil)
	}
	done.Store(true)
	if n := <-wrong; n != 0 {
		t.Errorf("%d products of an interrupted thread are wrong", n)
	}
}

// multiplyUntil multiplies on a thread of its own until done, and returns how
// often the product was not what it was the first time.
func multiplyUntil(done *atomic.Bool, thread chan<- int) (wrong int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f, _ := formats.ByName("Q8_0")
	const rows, cols, T = 256, 1024, 4 * quant.WideTile
	rng := rand.New(rand.NewPCG(1, 3))
	packed := packWeights(f, rng, patterns[0].fill, rows, cols)
	var x [][]float32
	for len(x) < T {
		x = append(x, activations(rng, cols)...)
	}
	tiles := wideTiles(f.CPU.Act, x[:T])
	kernel := f.CPU.MatMul(quant.AMX)
	want, got := make([]float32, T*rows), make([]float32, T*rows)
	kernel(packed, tiles, want, cols, p16.Groups(rows), rows, T)
	for thread <- unix.Gettid(); !done.Load(); {
		kernel(packed, tiles, got, cols, p16.Groups(rows), rows, T)
		if differs(got, want) >= 0 {
			wrong++
		}
	}
	return wrong
}
