// Package computetest is the suite that every backend passes, and the table of
// its benchmarks.
//
// Operations are compared with plain float64 code, under bounds that follow from
// their inputs, and with outside reference data. What must not change a bit
// (batches, chunks, pages: architecture law 1) is compared bit by bit.
//
// A backend's whole test is
//
//	func TestBackend(t *testing.T) { computetest.Run(t, open) }
package computetest

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// Run runs the suite. Each test opens a backend of its own and closes it.
func Run(t *testing.T, open func(testing.TB) compute.Backend) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *rig)
	}{
		{"info", testInfo},
		{"write and read", testWriteRead},
		{"overwrite", testOverwrite},
		{"refused", testRefused},
		{"used", testUsed},
		{"free", testFree},
		{"in order", testOrder},
		{"attention", testAttention},
		{"clear pages", testClearPages},
		{"not finite", testNotFinite},
		{"variations", testVariations},
		{"low rank", testLowRank},
		{"pick", testPick},
		{"reference data", testFixtures},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newRig(t, open)) })
	}
	for _, class := range KVClasses() {
		t.Run("kv/"+class.String(), func(t *testing.T) { testKV(t, newRig(t, open), class) })
		if f, _ := formats.ByName("Q8_0"); class.Packed() && class.Upper == 0 && class.Group == 32 {
			t.Run("same answer/kv "+class.String(), func(t *testing.T) {
				r := newRig(t, open)
				if r.be.Info().Lacks&compute.FeaturePackedKV != 0 {
					t.Skip("no packed caches")
				}
				testSameAnswer(t, r, f, class)
			})
		}
	}
	for _, f := range formats.All() {
		t.Run("products/"+f.Name, func(t *testing.T) { testProducts(t, newRig(t, open), f) })
		if f.Name == "F16" || f.Name == "Q8_0" || f.Name == "Q4_K" { // activations as they are, and both kinds of blocks
			t.Run("experts/"+f.Name, func(t *testing.T) { testExperts(t, newRig(t, open), f) })
		}
		t.Run("same answer/"+f.Name, func(t *testing.T) { testSameAnswer(t, newRig(t, open), f, compute.KVClass{}) })
	}
}

// rig is a backend under test. Its methods fail the test on any error.
type rig struct {
	tb    testing.TB
	be    compute.Backend
	arena compute.Arena
	rng   *rand.Rand
	tag   uint64
}

func newRig(tb testing.TB, open func(testing.TB) compute.Backend) *rig {
	be := open(tb)
	tb.Cleanup(func() {
		if err := be.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return &rig{tb: tb, be: be, arena: be.NewArena(), rng: rand.New(rand.NewPCG(1, 2))}
}

func (r *rig) check(err error) {
	r.tb.Helper()
	if err != nil {
		r.tb.Fatal(err)
	}
}

func (r *rig) buffer(rows, cols int) compute.Buffer {
	r.tb.Helper()
	b, err := r.arena.NewBuffer(rows, cols)
	r.check(err)
	return b
}

func (r *rig) vector(v []float32) compute.Vector {
	r.tb.Helper()
	out, err := r.arena.LoadVector(v)
	r.check(err)
	return out
}

func (r *rig) cache(spec compute.CacheSpec) compute.Cache {
	r.tb.Helper()
	c, err := r.arena.NewCache(spec)
	r.check(err)
	return c
}

// finish submits a pass, waits for it and returns the first rows of b.
func (r *rig) finish(p compute.Pass, b compute.Buffer, rows int) ([]float32, compute.Completion) {
	r.tb.Helper()
	r.tag++
	out := make([]float32, rows*b.Cols())
	p.Submit(r.tag, compute.Read{Src: b, Rows: rows, Dst: out})
	c := <-r.be.Completions()
	if c.Err != nil || c.Tag != r.tag {
		r.tb.Fatalf("completion of pass %d: tag %d, %v", r.tag, c.Tag, c.Err)
	}
	return out, c
}

// values is finish for a pass whose rows are all finite.
func (r *rig) values(p compute.Pass, b compute.Buffer, rows int) []float32 {
	r.tb.Helper()
	out, c := r.finish(p, b, rows)
	if len(c.NotFinite) != 0 {
		r.tb.Fatalf("rows %v are reported as not finite", c.NotFinite)
	}
	return out
}

// normal returns n normal values.
func (r *rig) normal(n int, size float64) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.rng.NormFloat64() * size)
	}
	return out
}

func littleEndian(v []float32) []byte {
	out := make([]byte, 0, 4*len(v))
	for _, x := range v {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
	}
	return out
}

// oneSpan is a batch of rows rows of one session from position start on.
func oneSpan(start, rows int, pages ...int32) *compute.Batch {
	return &compute.Batch{Rows: rows, Spans: []compute.Span{{Row: 0, Start: start, Count: rows, Pages: pages}}}
}

// matrix is a weight with its exact values.
type matrix struct {
	device     compute.Weight
	rows, cols int
	values     []float32
	act        bool // its activations are rounded to int8
}

func (m *matrix) row(i int) []float32 { return m.values[i*m.cols : (i+1)*m.cols] }

// load makes a matrix of random blocks of a format.
func (r *rig) load(f quant.Format, rows, cols int) *matrix {
	r.tb.Helper()
	blocks := r.blocks(f)
	var data []byte
	for range rows * cols / f.BlockElems {
		data = append(data, blocks[r.rng.IntN(len(blocks))]...)
	}
	return r.loadData(f, rows, cols, data)
}

func (r *rig) loadData(f quant.Format, rows, cols int, data []byte) *matrix {
	r.tb.Helper()
	m := &matrix{rows: rows, cols: cols, values: make([]float32, rows*cols), act: f.CPU != nil && f.CPU.Act == quant.ActInt8}
	f.Decode(m.values, data)
	w, err := r.arena.Load(compute.Matrix{Name: "weight", Format: f, Rows: rows, Cols: cols, Data: data})
	r.check(err)
	m.device = w
	if rows2, cols2 := w.Shape(); rows2 != rows || cols2 != cols {
		r.tb.Fatalf("a weight of %d × %d says %d × %d", rows, cols, rows2, cols2)
	}
	return m
}

// loadF32 loads plain values.
func (r *rig) loadF32(rows, cols int, values []float32) *matrix {
	r.tb.Helper()
	f, ok := formats.ByName("F32")
	if !ok {
		r.tb.Fatal("the build has no F32")
	}
	return r.loadData(f, rows, cols, littleEndian(values))
}

// blocks returns random blocks whose values are moderate.
func (r *rig) blocks(f quant.Format) [][]byte {
	values := make([]float32, f.BlockElems)
	var out [][]byte
	for len(out) < 64 {
		block := make([]byte, f.BlockBytes)
		for i := range block {
			block[i] = byte(r.rng.Uint32())
		}
		f.Decode(values, block)
		if size := largest(values); size > 1e-4 && size < 0.25 {
			out = append(out, block)
		}
	}
	return out
}

// largest returns the largest magnitude, or NaN if there is one.
func largest(v []float32) float64 {
	var m float64
	for _, x := range v {
		m = max(m, math.Abs(float64(x)))
	}
	return m
}

// near fails unless got is within bound of want.
func near(t *testing.T, what string, got float32, want, bound float64) {
	t.Helper()
	if diff := math.Abs(float64(got) - want); !(diff <= bound) {
		t.Fatalf("%s: %g, want %g ± %g", what, got, want, bound)
	}
}

// nearAt is near for one value of a row; it makes no text unless it fails.
func nearAt(t *testing.T, what string, row, col int, got float32, want, bound float64) {
	t.Helper()
	if diff := math.Abs(float64(got) - want); !(diff <= bound) {
		t.Fatalf("%s, row %d column %d: %g, want %g ± %g", what, row, col, got, want, bound)
	}
}

// sameBits fails unless the values are equal bit by bit.
func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: value %d is %g (%#08x), want %g (%#08x)", what, i,
				got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

// sameValues fails unless the values are equal; zeros may differ in their sign.
func sameValues(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: value %d is %g, want %g", what, i, got[i], want[i])
		}
	}
}
