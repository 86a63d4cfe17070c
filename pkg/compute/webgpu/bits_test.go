//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// bench is a product on a device of its own.
type bench struct {
	t  *testing.T
	be *Backend
	w  compute.Weight
	x  []float32
}

// adapter opens the adapter that SHOAL_GPU names, or a software one.
func adapter(t *testing.T, cfg Config) *Backend {
	t.Helper()
	name, named := os.LookupEnv("SHOAL_GPU")
	cfg.Adapter, cfg.Software = name, true
	be, err := open(cfg)
	if errors.Is(err, ErrUnavailable) && !named {
		t.Skip("no Vulkan adapter: install mesa-vulkan-drivers for a software one")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := be.Close(); err != nil {
			t.Error(err)
		}
	})
	return be
}

// newBench loads a random weight; change may alter the backend before that.
func newBench(t *testing.T, rows, cols int, change func(*Backend)) *bench {
	t.Helper()
	b := &bench{t: t, be: adapter(t, Config{})}
	if change != nil {
		change(b.be)
	}
	f, _ := formats.ByName("Q4_0")
	rng := rand.New(rand.NewPCG(3, 4))
	data := make([]byte, rows*cols/f.BlockElems*f.BlockBytes)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	for at := 0; at < len(data); at += f.BlockBytes {
		binary.LittleEndian.PutUint16(data[at:], uint16(0x2000+rng.UintN(512))) // scales around 0.01
	}
	var err error
	if b.w, err = b.be.NewArena().Load(compute.Matrix{Name: "w", Format: f, Rows: rows, Cols: cols, Data: data}); err != nil {
		t.Fatal(err)
	}
	for range 64 * cols {
		b.x = append(b.x, float32(rng.NormFloat64()))
	}
	return b
}

// product returns w times the first n rows of x, normed, in one pass.
func (b *bench) product(n int) []float32 {
	b.t.Helper()
	rows, cols := b.w.Shape()
	a := b.be.NewArena()
	defer a.Free()
	x, err := a.NewBuffer(n, cols)
	if err != nil {
		b.t.Fatal(err)
	}
	y, err := a.NewBuffer(n, rows)
	if err != nil {
		b.t.Fatal(err)
	}
	gain := make([]float32, cols)
	for i := range gain {
		gain[i] = 1 + float32(i%7)/8
	}
	g, err := a.LoadVector(gain)
	if err != nil {
		b.t.Fatal(err)
	}
	var in []byte
	for _, v := range b.x[:n*cols] {
		in = binary.LittleEndian.AppendUint32(in, math.Float32bits(v))
	}
	batch := compute.Batch{Rows: n, Spans: []compute.Span{{Count: n, Pages: make([]int32, n/compute.PageTokens+1)}}}
	p := b.be.Begin(&batch)
	p.Write(x, in)
	p.NormLinear([]compute.Buffer{y}, x, g, 1e-5, []compute.Weight{b.w})
	out := make([]float32, n*rows)
	p.Submit(1, compute.Read{Src: y, Rows: n, Dst: out})
	if c := <-b.be.Completions(); c.Err != nil {
		b.t.Fatal(c.Err)
	}
	return out
}

func same(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: value %d is %v, want %v", what, i, got[i], want[i])
		}
	}
}

// TestBits: the bits of a row do not depend on how many rows are computed with it,
// nor on the shape of workgroups, nor on how a weight is cut to fit the device's
// bindings. The second weight's rows are too long for one piece per segment.
func TestBits(t *testing.T) {
	for _, size := range []struct{ rows, cols int }{{70, 640}, {10, 64*maxLanes + 128}} {
		plain := newBench(t, size.rows, size.cols, nil)
		want := plain.product(64)
		for _, n := range []int{1, 2, 8} {
			same(t, "fewer rows", plain.product(n), want[:n*size.rows])
		}
		g := geometryOf(size.cols)
		for _, s := range []shape{{1, 2, 1}, {1, 4, 1}, {2, 4, 2}, {1, 2, 4}} {
			shaped := newBench(t, size.rows, size.cols, func(b *Backend) { b.tuner.fixed = &s })
			if s.Groups*g.lanes <= shaped.be.dev.Limits.Workgroup {
				same(t, "another shape", shaped.product(2), want[:2*size.rows])
			}
		}
		cut := newBench(t, size.rows, size.cols, func(b *Backend) { b.dev.Limits.Binding = uint64(32*g.segments*5 + 64*4*size.cols) })
		if cut.be.dev.Limits.Binding < uint64(32*g.segments*size.rows) {
			if parts := len(cut.w.(*weight).parts); parts < 2 {
				t.Errorf("the weight is in %d parts", parts)
			}
		}
		same(t, "in parts", cut.product(8), want[:8*size.rows])
	}
}

// TestWorkgroup: a size that is asked for is that of the kernels, changes no bit, and
// is refused where the device has none such.
func TestWorkgroup(t *testing.T) {
	const rows, cols = 70, 640 // 10 pieces
	want := newBench(t, rows, cols, nil).product(2)
	for _, threads := range []int{32, 64, 128, 256} {
		b := newBench(t, rows, cols, func(b *Backend) { b.tuner.threads = threads })
		same(t, "in other workgroups", b.product(2), want)
		found := false
		for k := range b.be.entries {
			if k.groups > 0 {
				found = true
				if got := k.groups * 10; got > threads || got <= threads-10 {
					t.Errorf("a workgroup of %d threads where %d were asked for", got, threads)
				}
			}
		}
		if !found {
			t.Error("no product was recorded")
		}
	}
	if s := shapeWith(geometryOf(64*maxLanes), 64, 32<<10); s.Groups != 1 {
		t.Errorf("a row of %d pieces in %d groups", maxLanes, s.Groups)
	}
	name := os.Getenv("SHOAL_GPU")
	for _, threads := range []int{-64, 16, 48, 1 << 20} {
		if _, err := open(Config{Adapter: name, Software: true, Workgroup: threads}); !errors.Is(err, ErrWorkgroup) {
			t.Errorf("workgroups of %d threads: %v", threads, err)
		}
	}
	if be := adapter(t, Config{Workgroup: 128}); be.tuner.threads != 128 {
		t.Errorf("a device opened for workgroups of 128 takes %d", be.tuner.threads)
	}
}

// TestCompilers: so many kernels are compiled at a time and no more, each once, and a
// pass that names one which cannot be compiled fails.
func TestCompilers(t *testing.T) {
	be := adapter(t, Config{Compilers: 2})
	began, goOn := make(chan kernel, 3), make(chan struct{})
	be.kernel.make = func(k kernel, _ device.Layout) (*device.Pipeline, error) {
		began <- k
		<-goOn
		return nil, errors.New("broken")
	}
	var entries []*entry
	for _, op := range []*op{scaleOp, capOp, writeOp, scaleOp} {
		e, err := be.kernel.get(kernel{op: op})
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	if <-began == <-began { // two at a time, or this waits for ever
		t.Error("a kernel is compiled twice")
	}
	if len(be.kernel.turns) != 2 || len(began) != 0 {
		t.Errorf("%d are compiled at a time", len(be.kernel.turns)+len(began))
	}
	close(goOn)
	<-began
	for _, e := range entries {
		if _, err := e.ready(); err == nil {
			t.Error("a broken kernel is ready")
		}
	}
	if entries[0] != entries[3] {
		t.Error("a kernel is there twice")
	}
	x, err := be.NewArena().NewBuffer(1, 64)
	if err != nil {
		t.Fatal(err)
	}
	p := be.Begin(&compute.Batch{Rows: 1, Spans: []compute.Span{{Count: 1, Pages: []int32{0}}}})
	p.AddBias([]compute.Buffer{x}, []compute.Vector{&vector{n: 64, buffer: x.(*buffer).buffer}})
	p.Submit(1)
	if c := <-be.Completions(); c.Err == nil {
		t.Error("a pass with a broken kernel went through")
	}
}

// TestCacheCompilesItsKernels: those of a packed cache are there when it is first used.
func TestCacheCompilesItsKernels(t *testing.T) {
	be := adapter(t, Config{})
	spec := compute.CacheSpec{Layers: 1, Pages: 2, KVHeads: 1, HeadDim: 64, Class: compute.KVClass{Bits: 4, Group: 32, Recent: 64}, Pools: compute.KVPools{Recent: 2}}
	c, err := be.NewArena().NewCache(spec)
	if err != nil {
		t.Fatal(err)
	}
	compiled := len(be.kernel.entries)
	a := be.NewArena()
	rows := func(cols int) compute.Buffer {
		b, err := a.NewBuffer(128, cols)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	q, k, v := rows(128), rows(64), rows(64)
	pages := []int32{0, 1}
	p := be.Begin(&compute.Batch{Rows: 128, Spans: []compute.Span{{Count: 128, Pages: pages, Recent: pages}}})
	p.RopeStore(q, k, v, compute.NewRope(64, 64, 128, 10000, nil, true), c, 0)
	p.Attend(q, q, c, 0, compute.Attention{Heads: 2, Scale: 1})
	p.Submit(1)
	if c := <-be.Completions(); c.Err != nil {
		t.Fatal(c.Err)
	}
	if others := len(be.kernel.entries) - compiled; compiled != 3 || others != 1 { // the rotation
		t.Errorf("the cache had %d kernels compiled, and its use %d more", compiled, others)
	}
}

// TestTogether: weights of several arenas are multiplied in one dispatch, give what
// they give alone, and are freed with the last of their arenas.
func TestTogether(t *testing.T) {
	const rows, cols = 48, 256
	be := adapter(t, Config{})
	f, _ := formats.ByName("Q4_0")
	rng := rand.New(rand.NewPCG(5, 6))
	start := be.Used()
	own := be.NewArena()
	gain, err := own.LoadVector(slices.Repeat([]float32{1}, cols))
	if err != nil {
		t.Fatal(err)
	}
	x, err := own.NewBuffer(1, cols)
	if err != nil {
		t.Fatal(err)
	}
	y := make([]compute.Buffer, 3)
	for i := range y {
		if y[i], err = own.NewBuffer(1, rows); err != nil {
			t.Fatal(err)
		}
	}
	in := make([]byte, 4*cols)
	for i := range cols {
		binary.LittleEndian.PutUint32(in[4*i:], math.Float32bits(float32(rng.NormFloat64())))
	}
	var arenas []compute.Arena
	var weights []compute.Weight
	for range 3 {
		data := make([]byte, rows*cols/f.BlockElems*f.BlockBytes)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		for at := 0; at < len(data); at += f.BlockBytes {
			binary.LittleEndian.PutUint16(data[at:], uint16(0x2000+rng.UintN(512)))
		}
		a := be.NewArena()
		w, err := a.Load(compute.Matrix{Name: "w", Format: f, Rows: rows, Cols: cols, Data: data})
		if err != nil {
			t.Fatal(err)
		}
		arenas, weights = append(arenas, a), append(weights, w)
	}
	// multiply returns the products of some weights, and how many dispatches they took.
	multiply := func(ws ...compute.Weight) ([]float32, int) {
		batch := compute.Batch{Rows: 1, Spans: []compute.Span{{Count: 1, Pages: []int32{0}}}}
		p := be.Begin(&batch).(*pass)
		p.Write(x, in)
		before := p.commands.Len()
		p.NormLinear(y[:len(ws)], x, gain, 1e-5, ws)
		p.settle()
		dispatches := p.commands.Len() - before
		out := make([]float32, len(ws)*rows)
		var reads []compute.Read
		for i := range ws {
			reads = append(reads, compute.Read{Src: y[i], Rows: 1, Dst: out[i*rows : (i+1)*rows]})
		}
		p.Submit(1, reads...)
		if c := <-be.Completions(); c.Err != nil {
			t.Fatal(c.Err)
		}
		return out, dispatches
	}
	var want []float32
	for _, w := range weights {
		one, _ := multiply(w)
		want = append(want, one...)
	}
	held := be.Used().Weights
	got, dispatches := multiply(weights...)
	if dispatches != 1 {
		t.Errorf("three weights took %d dispatches", dispatches)
	}
	same(t, "together", got, want)
	if be.Used().Weights != held {
		t.Errorf("together they hold %d bytes, apart %d", be.Used().Weights, held)
	}
	for i, a := range arenas[:2] {
		if err := a.Free(); err != nil {
			t.Fatal(err)
		}
		if be.Used().Weights != held {
			t.Errorf("without arena %d, whose store others hold: %d bytes, before %d", i, be.Used().Weights, held)
		}
	}
	got, _ = multiply(weights[2])
	same(t, "the last of them", got, want[2*rows:])
	for _, a := range []compute.Arena{arenas[2], own} {
		if err := a.Free(); err != nil {
			t.Fatal(err)
		}
	}
	if used := be.Used(); used.Weights != start.Weights || used.Caches != 0 {
		t.Errorf("all freed, yet %+v are held", used)
	}
}

// TestAdapterNames: a number means one adapter, whatever digits are in names.
func TestAdapterNames(t *testing.T) {
	for _, c := range []struct {
		wanted string
		number int
		name   string
		want   bool
	}{
		{"", 1, "NVIDIA H100", true}, {"1", 0, "NVIDIA H100", false}, {"1", 1, "NVIDIA H100", true}, {"100", 0, "NVIDIA H100", false},
		{"h100", 0, "NVIDIA H100", true}, {"llvm", 0, "NVIDIA H100", false},
	} {
		if got := (&Config{Adapter: c.wanted}).names(c.number, c.name); got != c.want {
			t.Errorf("%q means adapter %d, %s: %v, want %v", c.wanted, c.number, c.name, got, c.want)
		}
	}
}

// TestTuning: what was measured is kept, and used by the next device.
func TestTuning(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tuning.json")
	b := newBench(t, 1<<12, 512, func(b *Backend) { b.tuner.file = file })
	want := b.product(1)
	if len(b.be.tuner.shapes) != 1 {
		t.Fatalf("measured %v", b.be.tuner.shapes)
	}
	again := adapter(t, Config{Tuning: file})
	for k, s := range b.be.tuner.shapes {
		if again.tuner.shapes[k] != s {
			t.Errorf("%v is %v, measured %v", k, again.tuner.shapes[k], s)
		}
	}
	if anew := adapter(t, Config{Tuning: file, Retune: true}); len(anew.tuner.shapes) != 0 {
		t.Errorf("to be measured anew, yet there are %v", anew.tuner.shapes)
	}
	same(t, "not tuned", newBench(t, 1<<12, 512, nil).product(1), want)
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newTuner(Config{Tuning: file}, "x"); err == nil {
		t.Error("a broken file is read")
	}
}

// TestOutOfMemory: a device without room gives an error and goes on.
func TestOutOfMemory(t *testing.T) {
	be := adapter(t, Config{Memory: 1 << 20})
	a := be.NewArena()
	if _, err := a.NewBuffer(1<<10, 1<<10); !errors.Is(err, ErrMemory) {
		t.Errorf("beyond the limit: %v", err)
	}
	be.cfg.Memory = 0
	if _, err := a.NewBuffer(1<<20, 1<<20); !errors.Is(err, ErrMemory) {
		t.Errorf("beyond the device: %v", err)
	}
	if _, err := a.NewBuffer(4, 64); err != nil {
		t.Errorf("after that: %v", err)
	}
}
