package vec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// levels returns the levels that this machine can run, portable first.
func levels() []quant.Level { return p16.Levels() }

var lengths = []int{16, 32, 48, 96, 256, 576, 1008, 1536}

func noise(rng *rand.Rand, n int, size float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64() * size)
	}
	return x
}

// rowCases returns rows of ordinary values and rows of edge cases, as long.
func rowCases(n int) [][]float32 {
	rng := rand.New(rand.NewPCG(uint64(n), 7))
	rows := [][]float32{noise(rng, n, 1), noise(rng, n, 30), noise(rng, n, 1e-20), noise(rng, n, 1e-41), make([]float32, n)}
	edges := []float32{0, float32(math.Copysign(0, -1)), 1, -1, 87, -87, 88, -88, 87.5, 100, -100, 23316, -23316, 1e30, -1e30,
		0x1p-149, -0x1p-149, 0.5, 1.5, 2.5, 63.5, -0.34657359, 0.34657359, 1e-30, 9e-31, 5e18}
	row := make([]float32, n)
	for i := range row {
		row[i] = edges[(i*7+n)%len(edges)]
	}
	return append(rows, row)
}

func same(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s, value %d: %g (%#08x), portable %g (%#08x)", what, i,
				got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

// eachLevel runs check for every level above portable.
func eachLevel(t *testing.T, check func(t *testing.T, ops, ref *Ops)) {
	ref := For(quant.Portable)
	for _, l := range levels()[1:] {
		t.Run(l.String(), func(t *testing.T) { check(t, For(l), ref) })
	}
}

// TestRowOps: every level gives the bits of the portable one on whole rows.
func TestRowOps(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		for _, n := range lengths {
			cases := rowCases(n)
			for c, x := range cases {
				y := cases[(c+1)%len(cases)]
				name := fmt.Sprintf("length %d case %d", n, c)
				same(t, "SumSq "+name, []float32{ops.SumSq(x)}, []float32{ref.SumSq(x)})
				for op, pair := range map[string][2]func(dst, x, y []float32){
					"Norm":    {func(d, x, y []float32) { ops.Norm(d, x, y, 0.37) }, func(d, x, y []float32) { ref.Norm(d, x, y, 0.37) }},
					"Add":     {func(d, x, y []float32) { copy(d, x); ops.Add(d, y) }, func(d, x, y []float32) { copy(d, x); ref.Add(d, y) }},
					"Exp":     {func(d, x, _ []float32) { ops.Exp(d, x) }, func(d, x, _ []float32) { ref.Exp(d, x) }},
					"SiLUMul": {ops.SiLUMul, ref.SiLUMul},
					"GELUMul": {ops.GELUMul, ref.GELUMul},
				} {
					got, want := make([]float32, n+1), make([]float32, n+1)
					got[n], want[n] = -5, -5
					pair[0](got[:n], x, y)
					pair[1](want[:n], x, y)
					same(t, op+" "+name, got, want)
				}
			}
		}
	})
}

// TestTiles: quantising and tiling give the bytes of the portable ones.
func TestTiles(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		for _, n := range append([]int{1, 31, 33, 80}, lengths...) {
			for c, x := range rowCases(n) {
				for _, T := range quant.TileTokens {
					for _, tok := range []int{0, T / 2, T - 1} {
						for act, pair := range map[quant.Act][2]func([]byte, []float32, int, int){
							quant.ActInt8: {ops.Quantize, ref.Quantize}, quant.ActF32: {ops.Tile, ref.Tile},
						} {
							got, want := make([]byte, act.ActBytes(T, n)), make([]byte, act.ActBytes(T, n))
							pair[0](got, x, T, tok)
							pair[1](want, x, T, tok)
							for i := range want {
								if got[i] != want[i] {
									t.Fatalf("act %d, length %d case %d, token %d of %d: byte %d is %d, portable %d", act, n, c, tok, T, i, got[i], want[i])
								}
							}
						}
					}
				}
			}
		}
	})
}

// TestQuantizeNotFinite: a block with a NaN or an infinity gets a scale that is
// not finite on every level.
func TestQuantizeNotFinite(t *testing.T) {
	for _, l := range levels() {
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			for _, at := range []int{0, 17, 31} {
				x := noise(rand.New(rand.NewPCG(1, 1)), 32, 1)
				x[at] = float32(bad)
				tile := make([]byte, quant.ActInt8.ActBytes(1, 32))
				For(l).Quantize(tile, x, 1, 0)
				d := math.Float32frombits(uint32(tile[32]) | uint32(tile[33])<<8 | uint32(tile[34])<<16 | uint32(tile[35])<<24)
				if !math.IsNaN(float64(d)) && !math.IsInf(float64(d), 0) {
					t.Errorf("%s: %g at %d gives the scale %g", l, bad, at, d)
				}
			}
		}
	}
}

// TestRotate: every level gives the bits of the portable one.
func TestRotate(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		rng := rand.New(rand.NewPCG(3, 4))
		for _, dim := range []int{8, 16, 32, 64, 72, 80, 96, 128, 256} {
			for _, pairs := range []int{dim / 2, dim / 4, 3} {
				for _, neox := range []bool{false, true} {
					cos, sin := noise(rng, pairs, 1), noise(rng, pairs, 1)
					got := noise(rng, 3*dim, 10)
					want := append([]float32(nil), got...)
					ops.Rotate(got, dim, cos, sin, neox)
					ref.Rotate(want, dim, cos, sin, neox)
					same(t, fmt.Sprintf("dim %d pairs %d neox %v", dim, pairs, neox), got, want)
				}
			}
		}
	})
}

// page is the input of one page of attention.
type page struct {
	rows            []Row
	q, keys, values []float32
}

func newPage(rng *rand.Rand, rows, dim int) page {
	p := page{rows: make([]Row, rows), q: noise(rng, rows*dim, 1), keys: noise(rng, dim*Keys, 1), values: noise(rng, Keys*dim, 1)}
	for i := range p.rows {
		p.rows[i].Reset()
	}
	return p
}

// attend runs three pages with the ranges of keys seen and returns the scores,
// the rows' states and the outputs in one slice.
func attend(ops *Ops, p page, seen [][2]int32, scale, softCap float32) []float32 {
	rows := append([]Row(nil), p.rows...)
	dim := len(p.values) / Keys
	s, o := make([]float32, len(rows)*Keys), make([]float32, len(rows)*dim)
	var out []float32
	for i := range seen {
		for r := range rows {
			rows[r].First, rows[r].Last = seen[(i+r)%len(seen)][0], seen[(i+r)%len(seen)][1]
		}
		ops.Score(s, p.q, p.keys, len(rows), dim, Keys)
		out = append(out, s...)
		ops.Softmax(s, rows, scale, softCap)
		out = append(out, s...)
		ops.Values(o, s, p.values, rows, dim, Keys)
		out = append(out, o...)
	}
	for r := range rows {
		out = append(out, rows[r].Max, rows[r].Scale)
		out = append(out, rows[r].Sum[:]...)
		dst := make([]float32, dim)
		ops.Finish(dst, o[r*dim:(r+1)*dim], &rows[r])
		out = append(out, dst...)
	}
	return out
}

// TestAttention: every level gives the bits of the portable one, whatever is
// masked.
func TestAttention(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		rng := rand.New(rand.NewPCG(5, 6))
		seen := [][2]int32{{0, 63}, {0, 0}, {63, 63}, {5, 40}, {0, -1}, {-70, 20}, {17, 200}, {70, 100}}
		for _, dim := range []int{8, 16, 24, 32, 64, 72, 80, 96, 128, 256} {
			for rows := 1; rows <= MaxRows; rows++ {
				p := newPage(rng, rows, dim)
				for _, softCap := range []float32{0, 20} {
					got := attend(ops, p, seen, 0.125, softCap)
					same(t, fmt.Sprintf("dim %d rows %d cap %g", dim, rows, softCap), got, attend(ref, p, seen, 0.125, softCap))
				}
			}
		}
	})
}

// TestHiddenPages: pages with no key seen change nothing, before and after.
func TestHiddenPages(t *testing.T) {
	for _, l := range levels() {
		ops := For(l)
		p := newPage(rand.New(rand.NewPCG(8, 8)), 1, 64)
		tail := 64 + 2 + 16 // the output and the row's state
		alone := attend(ops, p, [][2]int32{{0, 50}}, 1, 0)
		among := attend(ops, p, [][2]int32{{0, -1}, {0, 50}, {64, 63}, {0, -9}}, 1, 0)
		alone[len(alone)-tail+1], among[len(among)-tail+1] = 0, 0 // Scale is the last page's
		same(t, l.String(), among[len(among)-tail:], alone[len(alone)-tail:])
	}
}

// TestExp: at most 2 units in the last place, exact at zero, clamped.
func TestExp(t *testing.T) {
	for _, l := range levels() {
		ops := For(l)
		x, y := make([]float32, 16), make([]float32, 16)
		worst := 0.0
		for i := 0; i < 1<<18; i += 16 {
			for j := range x {
				x[j] = float32(-87 + 175*float64(i+j)/(1<<18))
			}
			ops.Exp(y, x)
			for j := range x {
				want := math.Exp(float64(x[j]))
				ulp := float64(math.Nextafter32(float32(want), math.MaxFloat32) - float32(want))
				worst = max(worst, math.Abs(float64(y[j])-want)/ulp)
			}
		}
		if worst > 2 {
			t.Errorf("%s: error of %.2f units in the last place", l, worst)
		}
		t.Logf("%s: error of %.2f units in the last place", l, worst)
		in := []float32{0, float32(math.Copysign(0, -1)), -1e30, float32(math.Inf(-1)), 1e30, -87, 88, float32(math.NaN())}
		out := make([]float32, 16)
		ops.Exp(out, append(in, make([]float32, 8)...))
		if out[0] != 1 || out[1] != 1 {
			t.Errorf("%s: exp(0) = %g, exp(-0) = %g", l, out[0], out[1])
		}
		if out[2] != out[5] || out[3] != out[5] || out[4] != out[6] || !(out[5] > 0x1p-126) || math.IsInf(float64(out[6]), 0) {
			t.Errorf("%s: not clamped: %g", l, out[2:7])
		}
		if out[7] == out[7] {
			t.Errorf("%s: exp(NaN) = %g", l, out[7])
		}
	}
}

// TestActivations compares with float64.
func TestActivations(t *testing.T) {
	ops := For(p16.Best())
	x, up, silu, gelu := make([]float32, 4096), make([]float32, 4096), make([]float32, 4096), make([]float32, 4096)
	for i := range x {
		x[i], up[i] = float32(i-2048)/64, 1.5
	}
	ops.SiLUMul(silu, x, up)
	ops.GELUMul(gelu, x, up)
	for i, v := range x {
		v := float64(v)
		if want := v / (1 + math.Exp(-v)) * 1.5; math.Abs(float64(silu[i])-want) > 1e-6+1e-6*math.Abs(want) {
			t.Fatalf("silu(%g) = %g, want %g", v, silu[i], want)
		}
		if want := 0.75 * v * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v))); math.Abs(float64(gelu[i])-want) > 1e-6+1e-6*math.Abs(want) {
			t.Fatalf("gelu(%g) = %g, want %g", v, gelu[i], want)
		}
	}
}
