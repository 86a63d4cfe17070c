package cpu

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/computetest"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

func open(tb testing.TB, cfg Config) *Backend {
	tb.Helper()
	be, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := be.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return be
}

// TestOneClass: every instruction set level and number of threads gives the same
// bits.
func TestOneClass(t *testing.T) {
	var want [32]byte
	for _, level := range p16.Levels() {
		for threads := 1; threads <= 3; threads++ {
			if level == quant.Portable && threads == 2 {
				continue // slow
			}
			t.Run(fmt.Sprintf("%s/%d", level, threads), func(t *testing.T) {
				be := open(t, Config{Level: &level, Threads: threads})
				got, err := compute.SelfTest(be, formats.All())
				if err != nil {
					t.Fatal(err)
				}
				if want == [32]byte{} {
					want = got
				}
				if got != want {
					t.Errorf("fingerprint %x, want %x", got, want)
				}
			})
		}
	}
}

// TestBackend runs the suite of all backends.
func TestBackend(t *testing.T) {
	for _, reference := range []bool{false, true} {
		t.Run(class+map[bool]string{true: " reference"}[reference], func(t *testing.T) {
			computetest.Run(t, func(tb testing.TB) compute.Backend {
				be, err := Open(Config{Reference: reference, Threads: 2})
				if err != nil {
					tb.Fatal(err)
				}
				return be
			})
		})
	}
}

// BenchmarkBackend runs the table of all backends.
func BenchmarkBackend(b *testing.B) {
	computetest.Bench(b, func(tb testing.TB) compute.Backend {
		be, err := Open(Config{})
		if err != nil {
			tb.Fatal(err)
		}
		return be
	})
}

// layerPass records a layer's worth of operations.
type layerPass struct {
	be             *Backend
	batch          compute.Batch
	x, q, k, v, ff compute.Buffer
	table          compute.Weight
	square, narrow compute.Weight
	up, down       compute.Weight
	gain           compute.Vector
	rope           *compute.Rope
	cache          compute.Cache
	dst            []compute.Buffer
	weights        []compute.Weight
	reads          []compute.Read
	ids, pages     []int32
}

func newLayerPass(t *testing.T, be *Backend, rows int) *layerPass {
	weight := func(format string, rows, cols int) compute.Weight {
		f, ok := formats.ByName(format)
		if !ok {
			t.Fatalf("the build has no %s", format)
		}
		w, err := be.NewArena().Load(compute.Matrix{Name: "w", Format: f, Rows: rows, Cols: cols, Data: make([]byte, rows*cols/f.BlockElems*f.BlockBytes)})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	buffer := func(cols int) compute.Buffer {
		b, err := be.NewArena().NewBuffer(rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	l := &layerPass{be: be, batch: compute.Batch{Rows: rows, Spans: []compute.Span{{Count: rows, Pages: []int32{1}}}}}
	l.x, l.q, l.k, l.v, l.ff = buffer(128), buffer(128), buffer(64), buffer(64), buffer(256)
	l.square, l.narrow, l.up, l.down = weight("Q8_0", 128, 128), weight("Q8_0", 64, 128), weight("Q8_0", 256, 128), weight("Q8_0", 128, 256)
	l.table = weight("Q8_0", 128, 128)
	l.rope = compute.NewRope(32, 32, 64, 10000, nil, true)
	var err error
	if l.gain, err = be.NewArena().LoadVector(make([]float32, 128)); err != nil {
		t.Fatal(err)
	}
	if l.cache, err = be.NewArena().NewCache(compute.CacheSpec{Layers: 1, Pages: 2, KVHeads: 2, HeadDim: 32}); err != nil {
		t.Fatal(err)
	}
	l.dst, l.weights = []compute.Buffer{l.q, l.k, l.v}, []compute.Weight{l.square, l.narrow, l.narrow}
	l.reads = []compute.Read{{Src: l.ff, Rows: 1, Dst: make([]float32, 128)}}
	l.ids, l.pages = make([]int32, rows), []int32{1}
	return l
}

func (l *layerPass) submit(tag uint64) {
	p := l.be.Begin(&l.batch)
	p.ClearPages(l.cache, l.pages)
	p.Embed(l.x, l.table, l.ids)
	p.NormLinear(l.dst, l.x, l.gain, 1e-5, l.weights)
	p.RopeStore(l.q, l.k, l.v, l.rope, l.cache, 0)
	p.Attend(l.q, l.q, l.cache, 0, compute.Attention{Heads: 4, Scale: 1})
	p.LinearAdd(l.x, l.square, l.q)
	p.NormGateUp(l.ff, l.x, l.gain, 1e-5, l.up, l.up, compute.SiLU)
	p.LinearAdd(l.x, l.down, l.ff)
	p.Head(l.ff, l.x, l.ids[:1], l.gain, 1e-5, l.up)
	p.Submit(tag, l.reads...)
}

// TestNoAllocations: recording and running a pass allocates nothing once the
// backend has seen one as large.
func TestNoAllocations(t *testing.T) {
	be := open(t, Config{Threads: 2})
	for _, rows := range []int{1, 17} {
		l := newLayerPass(t, be, rows)
		for i := range 2 * compute.MaxPasses { // every pass record has grown
			l.submit(uint64(i))
			<-be.Completions()
		}
		if n := testing.AllocsPerRun(50, func() { l.submit(1); <-be.Completions() }); n != 0 {
			t.Errorf("%d rows: %g allocations a pass", rows, n)
		}
	}
}

// TestTooManyPasses: Begin panics rather than wait for the device.
func TestTooManyPasses(t *testing.T) {
	be := open(t, Config{Threads: 1})
	l := newLayerPass(t, be, 1)
	for range compute.MaxPasses {
		be.Begin(&l.batch)
	}
	defer func() {
		if recover() == nil {
			t.Error("one more pass than MaxPasses was begun")
		}
	}()
	be.Begin(&l.batch)
}

// TestCloseWaits: submitted passes complete, then the channel is closed and
// nothing is held.
func TestCloseWaits(t *testing.T) {
	be := open(t, Config{Threads: 2})
	l := newLayerPass(t, be, 3)
	for i := range compute.MaxPasses {
		l.submit(uint64(i))
	}
	if err := be.Close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for c := range be.Completions() {
		if c.Tag != uint64(n) {
			t.Errorf("completion %d has tag %d", n, c.Tag)
		}
		n++
	}
	if n != compute.MaxPasses {
		t.Errorf("%d completions", n)
	}
	if used := be.Used(); used.Weights+used.Caches != 0 {
		t.Errorf("still held: %+v", used)
	}
}

// TestMismatchPanics: shapes that do not agree are found while recording.
func TestMismatchPanics(t *testing.T) {
	be := open(t, Config{Threads: 1})
	l := newLayerPass(t, be, 2)
	for name, record := range map[string]func(p compute.Pass){
		"spans beyond the rows": func(compute.Pass) {
			be.Begin(&compute.Batch{Rows: 3, Spans: []compute.Span{{Count: 2, Pages: []int32{0}}}})
		},
		"positions without pages": func(compute.Pass) {
			be.Begin(&compute.Batch{Rows: 2, Spans: []compute.Span{{Start: 63, Count: 2, Pages: []int32{0}}}})
		},
		"an id beyond the table": func(p compute.Pass) { p.Embed(l.x, l.square, []int32{0, 128}) },
		"ids for other rows":     func(p compute.Pass) { p.Embed(l.x, l.square, []int32{0}) },
		"half a row":             func(p compute.Pass) { p.Write(l.x, make([]byte, 3)) },
		"a narrow destination":   func(p compute.Pass) { p.LinearAdd(l.k, l.square, l.q) },
		"a narrow source":        func(p compute.Pass) { p.LinearAdd(l.x, l.square, l.k) },
		"a layer too many":       func(p compute.Pass) { p.RopeStore(l.q, l.k, l.v, l.rope, l.cache, 1) },
		"heads that share none":  func(p compute.Pass) { p.Attend(l.q, l.q, l.cache, 0, compute.Attention{Heads: 3}) },
		"a page too many":        func(p compute.Pass) { p.ClearPages(l.cache, []int32{2}) },
		"a row too many":         func(p compute.Pass) { p.Head(l.ff, l.x, []int32{2}, l.gain, 0, l.up) },
		"a read beyond the rows": func(p compute.Pass) { p.Submit(0, compute.Read{Src: l.x, Rows: 1, Dst: make([]float32, 129)}) },
	} {
		t.Run(name, func(t *testing.T) {
			p := &pass{be: be}
			p.begin(&l.batch)
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			record(p)
		})
	}
}

// TestOpenRefuses what the machine or the sizes do not allow.
func TestOpenRefuses(t *testing.T) {
	foreign := quant.NEON
	if runtime.GOARCH == "arm64" {
		foreign = quant.AVX2
	}
	for name, cfg := range map[string]Config{
		"negative threads": {Threads: -1},
		"too many threads": {Threads: maxThreads + 1},
		"unknown level":    {Level: new(quant.Level(9))},
		"foreign level":    {Level: &foreign},
	} {
		if be, err := Open(cfg); err == nil {
			be.Close()
			t.Errorf("opened with %s", name)
		}
	}
}

// TestMemoryLimit: what does not fit is refused, and leaves no trace.
func TestMemoryLimit(t *testing.T) {
	be := open(t, Config{Threads: 1, Memory: 1 << 20})
	if be.Info().Memory != 1<<20 {
		t.Errorf("memory of %d", be.Info().Memory)
	}
	if _, err := be.NewArena().NewBuffer(1024, 1024); !errors.Is(err, ErrMemory) {
		t.Errorf("a buffer of 4 MiB in 1 MiB: %v", err)
	}
	if _, err := be.NewArena().NewCache(compute.CacheSpec{Layers: 1 << 20, Pages: 1 << 20, KVHeads: 1 << 10, HeadDim: 128}); !errors.Is(err, ErrMemory) {
		t.Errorf("a cache of 64 EiB in 1 MiB: %v", err)
	}
	if got := be.Used().Total(); got != 0 {
		t.Errorf("%d bytes held", got)
	}
}

// TestFormatWithoutKernel: refused by name; the reference decodes it.
func TestFormatWithoutKernel(t *testing.T) {
	f, ok := formats.ByName("F32")
	if !ok {
		t.Fatal("the build has no F32")
	}
	f.Name, f.CPU = "Q9_9", nil
	m := compute.Matrix{Name: "blk.0.weight", Format: f, Rows: 1, Cols: 4, Data: make([]byte, 16)}
	_, err := open(t, Config{Threads: 1}).NewArena().Load(m)
	if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "Q9_9") || !strings.Contains(err.Error(), "blk.0.weight") {
		t.Errorf("load of a format without a kernel: %v", err)
	}
	if _, err := open(t, Config{Threads: 1, Reference: true}).NewArena().Load(m); err != nil {
		t.Errorf("reference mode: %v", err)
	}
}
