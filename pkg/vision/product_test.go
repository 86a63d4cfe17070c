package vision

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

func floatKernel(t *testing.T, level quant.Level, workers int) kernel {
	t.Helper()
	plain, ok := formats.ByGGML(0)
	if !ok {
		t.Fatal("no format of float32")
	}
	return kernel{cpu: plain.CPU, multiply: plain.CPU.MatMul(level), workers: workers}
}

func random(r *rand.Rand, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.NormFloat64())
	}
	return out
}

// TestProducts: products of any shape are those of float64, and have the same bits on
// every level of the processor and with any number of workers.
func TestProducts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, format := range []string{"F32", "F16", "BF16", "Q8_0"} {
		f, ok := formats.ByName(format)
		if !ok {
			t.Fatal(format)
		}
		for _, shape := range [][3]int{{1, 32, 1}, {7, 64, 17}, {13, 96, 16}, {30, 32, 50}, {577, 64, 33}} {
			rows, cols, out := shape[0], shape[1], shape[2]
			data := make([]byte, out*cols/f.BlockElems*f.BlockBytes)
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			bytes := len(data) / out
			exact := make([]float32, out*cols)
			for i := range out { // keep values of a moderate size
				f.Decode(exact[i*cols:][:cols], data[i*bytes:][:bytes])
			}
			for i, v := range exact {
				if !(math.Abs(float64(v)) < 100) {
					for b := range f.BlockBytes {
						data[i/f.BlockElems*f.BlockBytes+b] = 0
					}
				}
			}
			for i := range out {
				f.Decode(exact[i*cols:][:cols], data[i*bytes:][:bytes])
			}
			d := dense{rows: out, cols: cols, format: f, data: data, bias: random(r, out)}
			x := random(r, rows*cols)
			var first []float32
			for _, level := range p16.Levels() {
				for _, workers := range []int{1, 3} {
					k := floatKernel(t, level, workers)
					got := k.apply(tile(x, rows, cols, cols), d)
					if first == nil {
						first = got
						compare(t, got, x, exact, d)
					} else if !slices.Equal(first, got) {
						t.Errorf("%s %v: level %v with %d workers has other bits", format, shape, level, workers)
					}
				}
			}
		}
	}
}

func compare(t *testing.T, got, x, w []float32, d dense) {
	t.Helper()
	for i := range len(x) / d.cols {
		for o := range d.rows {
			sum, size := float64(d.bias[o]), math.Abs(float64(d.bias[o]))
			for c := range d.cols {
				p := float64(x[i*d.cols+c]) * float64(w[o*d.cols+c])
				sum += p
				size += math.Abs(p)
			}
			if off := math.Abs(float64(got[i*d.rows+o]) - sum); !(off <= 1e-5*size) {
				t.Fatalf("%s: value %d of row %d is %g off of %g", d.format.Name, o, i, off, sum)
			}
		}
	}
}

func TestErf(t *testing.T) {
	for x := -7.0; x <= 7; x += 1.0 / 64 {
		if d := math.Abs(erf(x) - math.Erf(x)); !(d < 1e-12) {
			t.Errorf("erf(%g) is %g off", x, d)
		}
	}
	if !math.IsNaN(erf(math.NaN())) {
		t.Error("erf of NaN is a number")
	}
}

// TestAttentionForgetsOrder: attention without positions does not care in which order
// other rows come, and one row's result is the mean of values where all keys are alike.
func TestAttentionForgetsOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	tw := tower{width: 32, heads: 2, kernel: floatKernel(t, p16.Best(), 2)}
	const rows = 9
	q, v := random(r, rows*tw.width), random(r, rows*tw.width)
	out := tw.attend(q, make([]float32, rows*tw.width), v)
	for c := range tw.width {
		mean := 0.0
		for i := range rows {
			mean += float64(v[i*tw.width+c]) / rows
		}
		if d := math.Abs(mean - float64(out[c])); d > 1e-6 {
			t.Errorf("value %d: %g off the mean", c, d)
		}
	}
	k := random(r, rows*tw.width)
	a := tw.attend(q, k, v)
	swap := func(x []float32) []float32 {
		x = slices.Clone(x)
		for c := range tw.width {
			x[c], x[5*tw.width+c] = x[5*tw.width+c], x[c]
		}
		return x
	}
	b := tw.attend(q, swap(k), swap(v))
	for i := range a {
		if d := math.Abs(float64(a[i] - b[i])); d > 1e-5 {
			t.Fatalf("value %d changes by %g with the order of keys", i, d)
		}
	}
}
