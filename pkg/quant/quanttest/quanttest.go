// Package quanttest is the suite that every weight format passes: its decoder
// gives the bits of the outside reference, and its CPU kernels give one set of
// bits on every instruction set, tile width and grouping.
//
// A format's whole test file is
//
//	func TestFormat(t *testing.T) { quanttest.Run(t, Format) }
package quanttest

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Run checks f against the reference matrix and, when it has CPU kernels, those
// against its decoder.
func Run(t *testing.T, f quant.Format) {
	t.Run("shape", func(t *testing.T) { testShape(t, f) })
	t.Run("decode", func(t *testing.T) { testDecode(t, f) })
	if f.Encode != nil {
		t.Run("encode", func(t *testing.T) { testEncode(t, f) })
	}
	if f.CPU == nil {
		return
	}
	t.Run("pack", func(t *testing.T) { testPack(t, f) })
	t.Run("matmul", func(t *testing.T) { testMatMul(t, f) })
}

func testShape(t *testing.T, f quant.Format) {
	ref := load(t, f)
	if ref.listed && (ref.entry.GGML != f.GGML || ref.entry.BlockElems != f.BlockElems || ref.entry.BlockBytes != f.BlockBytes) {
		t.Errorf("%s is type %d in blocks of %d values and %d bytes; the reference says %+v",
			f.Name, f.GGML, f.BlockElems, f.BlockBytes, ref.entry)
	}
	for _, cols := range []int{-f.BlockElems, 0, f.BlockElems + 1} {
		if f.BlockElems == 1 && cols > 0 {
			continue
		}
		if n, err := f.RowBytes(cols); err == nil {
			t.Errorf("RowBytes(%d) = %d, want an error", cols, n)
		}
	}
	if n, err := f.RowBytes(3 * f.BlockElems); err != nil || n != 3*f.BlockBytes {
		t.Errorf("RowBytes(%d) = %d, %v; want %d", 3*f.BlockElems, n, err, 3*f.BlockBytes)
	}
}

func testDecode(t *testing.T, f quant.Format) {
	ref := load(t, f)
	got := make([]float32, ref.rows*ref.cols)
	f.Decode(got, ref.packed)
	if i, ok := firstDifference(got, ref.values); !ok {
		t.Fatalf("row %d column %d: %g (%#08x), the reference has %g (%#08x)", i/ref.cols, i%ref.cols,
			got[i], math.Float32bits(got[i]), ref.values[i], math.Float32bits(ref.values[i]))
	}
	// One block at a time gives the same: blocks are independent.
	for b := 0; b < len(got)/f.BlockElems; b += 7 {
		one := make([]float32, f.BlockElems)
		f.Decode(one, ref.packed[b*f.BlockBytes:(b+1)*f.BlockBytes])
		if i, ok := firstDifference(one, got[b*f.BlockElems:(b+1)*f.BlockElems]); !ok {
			t.Fatalf("block %d value %d depends on its neighbours", b, i)
		}
	}
}

// encodeError is how far values of a normal distribution may be off when they are
// rounded to a precision, relative to their size.
var encodeError = map[string]float64{"int8": 0.007, "int6": 0.025, "int5": 0.05, "int4": 0.1, "int3": 0.18, "int2": 0.32}

// testEncode rounds values and reads them back: they are close, zeros stay zeros,
// blocks do not know of each other, and what was rounded once is hardly moved again.
func testEncode(t *testing.T, f quant.Format) {
	rng := rand.New(rand.NewPCG(1, 2))
	const blocks = 64
	x := make([]float32, (blocks+1)*f.BlockElems) // the last block is zeros
	for i := range x[:blocks*f.BlockElems] {
		x[i] = float32(rng.NormFloat64() * math.Pow(10, float64(i/f.BlockElems%7-4)))
	}
	packed := make([]byte, (blocks+1)*f.BlockBytes)
	for i := range packed {
		packed[i] = 0xAA
	}
	f.Encode(packed, x, nil)
	first := decoded(f, packed)
	again := make([]byte, len(packed))
	f.Encode(again, first, nil)
	second := decoded(f, again)
	for b := range blocks + 1 {
		from, to := b*f.BlockElems, (b+1)*f.BlockElems
		one := make([]byte, f.BlockBytes)
		f.Encode(one, x[from:to], nil)
		if !bytes.Equal(one, packed[b*f.BlockBytes:][:f.BlockBytes]) {
			t.Fatalf("block %d depends on its neighbours", b)
		}
		most := encodeError[f.Precision]
		if off := distance(x[from:to], first[from:to]); off > most*1.4 || off != off {
			t.Errorf("block %d is off by %.4f of its size, at most %.4f", b, off, most*1.4)
		}
		if off := distance(first[from:to], second[from:to]); off > most/2 {
			t.Errorf("block %d, rounded twice, moves by %.4f of its size", b, off)
		}
	}
	if off := distance(x, first); off > encodeError[f.Precision] {
		t.Errorf("values are off by %.4f of their size, at most %.4f", off, encodeError[f.Precision])
	}
}

func decoded(f quant.Format, packed []byte) []float32 {
	out := make([]float32, len(packed)/f.BlockBytes*f.BlockElems)
	f.Decode(out, packed)
	return out
}

// distance is the size of a − b relative to that of a; 0 of zeros.
func distance(a, b []float32) float64 {
	var off, size float64
	for i, v := range a {
		off += math.Pow(float64(v-b[i]), 2)
		size += float64(v) * float64(v)
	}
	if off == 0 {
		return 0
	}
	return math.Sqrt(off / size)
}

// testPack packs whole and partial matrices and reads every row back.
func testPack(t *testing.T, f quant.Format) {
	for _, m := range matrices(t, f) {
		for _, rows := range []int{1, quant.Lanes, m.rows - 11, m.rows} {
			packed := pack(f, m.packed, rows, m.cols, 0xAA)
			groupBytes := f.CPU.GroupBytes(m.cols)
			got := make([]float32, m.cols)
			for r := range len(packed) / groupBytes * quant.Lanes {
				group := packed[r/quant.Lanes*groupBytes:][:groupBytes]
				f.CPU.DecodeRow(got, group, r%quant.Lanes, m.cols)
				want := make([]float32, m.cols) // a missing row is zero
				if r < rows {
					want = m.row(r)
				}
				if i, ok := firstDifference(got, want); !ok && (r < rows || got[i] != 0) {
					t.Fatalf("%s, %d rows of %d: row %d column %d: packed %g, decoded %g",
						m.name, rows, m.cols, r, i, got[i], want[i])
				}
			}
			if again := pack(f, m.packed, rows, m.cols, 0x55); !bytes.Equal(again, packed) {
				t.Fatalf("%s: packing %d rows twice gives different bytes: some are not written", m.name, rows)
			}
		}
	}
}

// pack packs the first rows of src into a buffer that held the byte dirt before.
func pack(f quant.Format, src []byte, rows, cols int, dirt byte) []byte {
	groups := (rows + quant.Lanes - 1) / quant.Lanes
	dst := bytes.Repeat([]byte{dirt}, groups*f.CPU.GroupBytes(cols))
	f.CPU.Pack(dst, src[:rows*(cols/f.BlockElems*f.BlockBytes)], rows, cols)
	return dst
}

// firstDifference compares bits; any NaN equals any other.
func firstDifference(a, b []float32) (int, bool) {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) && (a[i] == a[i] || b[i] == b[i]) {
			return i, false
		}
	}
	return 0, true
}
