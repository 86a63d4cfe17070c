package computetest

import (
	"math"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

func testInfo(t *testing.T, r *rig) {
	if info := r.be.Info(); info.Kind == "" || info.Name == "" || info.Class == "" {
		t.Errorf("the device is not described: %+v", info)
	}
}

// testWriteRead moves rows through buffers, padded or not.
func testWriteRead(t *testing.T, r *rig) {
	for _, cols := range []int{1, 15, 16, 100} {
		b := r.buffer(7, cols)
		if b.Cols() != cols {
			t.Fatalf("a buffer of %d columns says %d", cols, b.Cols())
		}
		want := r.normal(5*cols, 1)
		p := r.be.Begin(oneSpan(0, 5, 0))
		rows := littleEndian(want)
		p.Write(b, rows)
		sameBits(t, "all rows", r.values(p, b, 5), want)
		p = r.be.Begin(oneSpan(0, 1, 0))
		sameBits(t, "two rows in a later pass", r.values(p, b, 2), want[:2*cols])
	}
}

// testOverwrite puts rows in the place of some of a batch's.
func testOverwrite(t *testing.T, r *rig) {
	for _, cols := range []int{1, 16, 100} {
		b := r.buffer(7, cols)
		want, other := r.normal(5*cols, 1), r.normal(2*cols, 2)
		p := r.be.Begin(oneSpan(0, 5, 0))
		p.Write(b, littleEndian(want))
		p.Overwrite(b, []int32{3, 1}, littleEndian(other))
		p.Overwrite(b, nil, nil)
		copy(want[3*cols:], other[:cols])
		copy(want[cols:], other[cols:])
		sameBits(t, "rows with others among them", r.values(p, b, 5), want[:5*cols])
	}
}

// testRefused gives the device what it cannot hold.
func testRefused(t *testing.T, r *rig) {
	f, ok := formats.ByName("F32")
	if !ok {
		t.Fatal("the build has no F32")
	}
	for name, m := range map[string]compute.Matrix{
		"too few bytes":  {Name: "w", Format: f, Rows: 2, Cols: 8, Data: make([]byte, 63)},
		"too many bytes": {Name: "w", Format: f, Rows: 2, Cols: 8, Data: make([]byte, 96)},
		"no rows":        {Name: "w", Format: f, Rows: 0, Cols: 8},
		"no columns":     {Name: "w", Format: f, Rows: 2, Cols: 0},
	} {
		if _, err := r.arena.Load(m); err == nil {
			t.Errorf("loaded a matrix with %s", name)
		}
	}
	if _, err := r.arena.LoadVector(nil); err == nil {
		t.Error("loaded an empty vector")
	}
	if _, err := r.arena.NewBuffer(0, 4); err == nil {
		t.Error("made a buffer of no rows")
	}
	if _, err := r.arena.NewCache(compute.CacheSpec{Layers: 1, Pages: 0, KVHeads: 1, HeadDim: 64}); err == nil {
		t.Error("made a cache of no pages")
	}
	if got := r.be.Used().Total(); got != 0 {
		t.Errorf("%d bytes held after nothing was made", got)
	}
}

// testUsed: what is held is at least the values, and not much more.
func testUsed(t *testing.T, r *rig) {
	for _, f := range formats.All() {
		before := r.be.Used().Weights
		r.load(f, 512, 256)
		size := uint64(512 * 256 / f.BlockElems * f.BlockBytes)
		if got := r.be.Used().Weights - before; got < size || got > size+size/10 {
			t.Errorf("%s: %d bytes held for a matrix of %d", f.Name, got, size)
		}
	}
	r.cache(compute.CacheSpec{Layers: 3, Pages: 5, KVHeads: 2, HeadDim: 64})
	if got, size := r.be.Used().Caches, uint64(3*5*2*2*64*64*4); got < size || got > size+size/20 {
		t.Errorf("%d bytes held for a cache of %d", got, size)
	}
	r.buffer(48, 256)
	if got, size := r.be.Used().Buffers, uint64(48*256*4); got < size || got > size+size/20 {
		t.Errorf("%d bytes held for a buffer of %d", got, size)
	}
}

// testFree: an arena gives back all that was made in it, and nothing of others.
func testFree(t *testing.T, r *rig) {
	f := formats.All()[0]
	r.load(f, 64, 256)
	kept := r.be.Used()
	a := r.be.NewArena()
	if _, err := a.Load(compute.Matrix{Name: "w", Format: f, Rows: 64, Cols: f.BlockElems, Data: make([]byte, 64*f.BlockBytes)}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.LoadVector(make([]float32, 64)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.NewBuffer(8, 64); err != nil {
		t.Fatal(err)
	}
	if _, err := a.NewCache(compute.CacheSpec{Layers: 1, Pages: 1, KVHeads: 1, HeadDim: 64}); err != nil {
		t.Fatal(err)
	}
	used := a.Used()
	if used.Weights == 0 || used.Caches == 0 || used.Buffers == 0 || r.be.Used().Total() != kept.Total()+used.Total() {
		t.Errorf("the arena holds %+v, the device %+v with %+v before", used, r.be.Used(), kept)
	}
	if err := a.Free(); err != nil {
		t.Fatal(err)
	}
	if got := r.be.Used(); got != kept {
		t.Errorf("%+v held after Free, %+v before", got, kept)
	}
}

// testOrder has as many passes under way as may be: they run in order, and each
// sees what the ones before left.
func testOrder(t *testing.T, r *rig) {
	w := r.loadF32(16, 16, identity(16))
	x, y := r.buffer(1, 16), r.buffer(1, 16)
	batch := oneSpan(0, 1, 0)
	one := make([]float32, 16)
	for i := range one {
		one[i] = 1
	}
	out := make([][]float32, 3*compute.MaxPasses)
	for i := range out {
		out[i] = make([]float32, 16)
	}
	received := 0
	receive := func() {
		if c := <-r.be.Completions(); c.Tag != uint64(received) || c.Err != nil || c.Elapsed <= 0 {
			t.Fatalf("completion %d: %+v", received, c)
		}
		received++
	}
	for i := range out {
		if i-received == compute.MaxPasses {
			receive()
		}
		p := r.be.Begin(batch)
		if i == 0 {
			p.Write(x, littleEndian(make([]float32, 16)))
			p.Write(y, littleEndian(one))
		}
		p.LinearAdd(x, w.device, y)
		p.Submit(uint64(i), compute.Read{Src: x, Rows: 1, Dst: out[i]})
	}
	for received < len(out) {
		receive()
	}
	for i, v := range out {
		near(t, "after so many passes", v[3], float64(i+1), 0)
	}
}

func identity(n int) []float32 {
	out := make([]float32, n*n)
	for i := range n {
		out[i*n+i] = 1
	}
	return out
}

// testClearPages: a cleared page reads as zero, in all layers, before anything
// else of the pass; other pages stay.
func testClearPages(t *testing.T, r *rig) {
	const dim = 32
	cache := r.cache(compute.CacheSpec{Layers: 2, Pages: 3, KVHeads: 1, HeadDim: dim})
	q, k, v, out := r.buffer(64, dim), r.buffer(64, dim), r.buffer(64, dim), r.buffer(64, dim)
	rope := compute.NewRope(dim, dim, 128, 10000, nil, true)
	zeros, ones := littleEndian(make([]float32, 64*dim)), make([]float32, 64*dim)
	for i := range ones {
		ones[i] = 1
	}
	fill := func(page int32) {
		p := r.be.Begin(oneSpan(0, 64, page))
		p.Write(q, zeros)
		p.Write(k, littleEndian(ones))
		p.Write(v, littleEndian(ones))
		for layer := range 2 {
			p.RopeStore(q, k, v, rope, cache, layer)
		}
		r.values(p, q, 1)
	}
	// mean returns the mean value over the first two keys of a page, of which the
	// second is a new one of zeros.
	mean := func(layer int, page int32, clear []int32) float32 {
		p := r.be.Begin(oneSpan(1, 1, page))
		p.Write(q, zeros[:4*dim])
		p.Write(k, zeros[:4*dim])
		p.Write(v, zeros[:4*dim])
		p.RopeStore(q, k, v, rope, cache, layer)
		p.ClearPages(cache, clear)
		p.Attend(out, q, cache, layer, compute.Attention{Heads: 1, Scale: 1})
		return r.values(p, out, 1)[0]
	}
	for page := range int32(3) {
		fill(page)
	}
	for layer := range 2 {
		for page := range int32(3) {
			near(t, "a filled page", mean(layer, page, nil), 0.5, 1e-6)
		}
	}
	near(t, "a cleared page", mean(1, 1, []int32{1}), 0, 0)
	near(t, "its other layer", mean(0, 1, nil), 0, 0)
	near(t, "another page", mean(0, 0, nil), 0.5, 1e-6)
	near(t, "yet another page", mean(1, 2, nil), 0.5, 1e-6)
}

// testNotFinite: rows with a NaN, an infinity or squares that overflow are
// listed; the bits of other rows stay what they were.
func testNotFinite(t *testing.T, r *rig) {
	const rows, hidden = 20, 64
	w, wide := r.loadF32(40, hidden, r.normal(40*hidden, 1)), r.loadF32(hidden, hidden, r.normal(hidden*hidden, 1))
	gain := r.vector(r.normal(hidden, 1))
	x, dst, logits := r.buffer(rows, hidden), r.buffer(rows, 40), r.buffer(rows, 40)
	good := r.normal(rows*hidden, 1)
	run := func(in []float32) ([]float32, []float32, []int32) {
		p := r.be.Begin(oneSpan(0, rows, 0))
		p.Write(x, littleEndian(in))
		p.NormLinear([]compute.Buffer{dst}, x, gain, 1e-5, []compute.Weight{w.device})
		p.LinearAdd(x, wide.device, x)
		p.Head(logits, x, []int32{7, 8, 19}, gain, 1e-5, w.device)
		first := make([]float32, rows*40)
		p.Submit(99, compute.Read{Src: dst, Rows: rows, Dst: first})
		c := <-r.be.Completions()
		second, _ := r.finish(r.be.Begin(oneSpan(0, 3, 0)), logits, 3)
		return first, second, c.NotFinite
	}
	first, second, marked := run(good)
	if len(marked) != 0 {
		t.Fatalf("rows %v of good ones are listed", marked)
	}
	bad := slices.Clone(good)
	bad[3*hidden+5] = float32(math.NaN())
	bad[8*hidden+63] = float32(math.Inf(-1))
	bad[19*hidden] = 1e30
	firstBad, secondBad, marked := run(bad)
	if want := []int32{3, 8, 19}; !slices.Equal(marked, want) {
		t.Errorf("rows %v are listed, want %v", marked, want)
	}
	for row := range rows {
		if row != 3 && row != 8 && row != 19 {
			sameBits(t, "a good row", firstBad[row*40:(row+1)*40], first[row*40:(row+1)*40])
		}
	}
	sameBits(t, "the logits of a good row", secondBad[:40], second[:40])
}
