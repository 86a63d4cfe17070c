package vec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// edges are values at which kernels go wrong: zeros of both signs, subnormals,
// the bounds of exp, halves, huge values.
var edges = []float32{0, float32(math.Copysign(0, -1)), 0x1p-149, -0x1p-149, 0x1.8p-140, -0x1p-127, 0x1p-126, 1, -1,
	0.5, -1.5, 2.5, 87, -87, 88, -88, -87.00001, 104, -104, 1e-30, -1e-30, 9.99e-31, 1e30, -1e30, -2e30, 3e37, -3e37}

// wild returns n values: ordinary ones mixed with edges.
func wild(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	share, size := rng.IntN(3), math.Pow(10, rng.Float64()*8-5)
	for i := range x {
		x[i] = float32(rng.NormFloat64() * size)
		if rng.IntN(4) < share {
			x[i] = edges[rng.IntN(len(edges))]
		}
	}
	return x
}

// sameNumbers is same, but any NaN is as good as another.
func sameNumbers(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if want[i] != want[i] && got[i] != got[i] {
			continue
		}
		same(t, fmt.Sprintf("%s, from %d on", what, i), got[i:i+1], want[i:i+1])
	}
}

// TestRowOpsOfAnyLength: every level gives the bits of the portable one for
// every length and for extreme values, and writes nothing else.
func TestRowOpsOfAnyLength(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		rng := rand.New(rand.NewPCG(11, 12))
		for n := 0; n <= 200; n++ {
			for range 4 {
				x, y, s := wild(rng, n), wild(rng, n), wild(rng, 1)[0]
				sameNumbers(t, fmt.Sprintf("SumSq of %d", n), []float32{ops.SumSq(x)}, []float32{ref.SumSq(x)})
				for name, run := range map[string]func(o *Ops, dst []float32){
					"Norm":             func(o *Ops, dst []float32) { o.Norm(dst, x, y, s) },
					"Add":              func(o *Ops, dst []float32) { copy(dst, x); o.Add(dst, y) },
					"Exp":              func(o *Ops, dst []float32) { o.Exp(dst, x) },
					"SiLUMul":          func(o *Ops, dst []float32) { o.SiLUMul(dst, x, y) },
					"SiLUMul in place": func(o *Ops, dst []float32) { copy(dst, x); o.SiLUMul(dst, dst, y) },
					"GELUMul":          func(o *Ops, dst []float32) { o.GELUMul(dst, x, y) },
				} {
					got, want := make([]float32, n+16), make([]float32, n+16)
					run(ops, got[:n])
					run(ref, want[:n])
					sameNumbers(t, fmt.Sprintf("%s of %d", name, n), got, want)
				}
			}
		}
	})
}

// TestRowOpsKeepNotFinite: NaN and infinities come out where the portable
// operations have them.
func TestRowOpsKeepNotFinite(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		rng := rand.New(rand.NewPCG(13, 14))
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			for at := range 40 {
				x, y := noise(rng, 40, 1), noise(rng, 40, 1)
				x[at] = float32(bad)
				for _, run := range []func(o *Ops, dst []float32){
					func(o *Ops, dst []float32) { dst[0] = o.SumSq(x) },
					func(o *Ops, dst []float32) { o.Norm(dst, x, y, 2) },
					func(o *Ops, dst []float32) { o.Exp(dst, x) },
					func(o *Ops, dst []float32) { o.SiLUMul(dst, x, y) },
					func(o *Ops, dst []float32) { o.GELUMul(dst, x, y) },
				} {
					got, want := make([]float32, 40), make([]float32, 40)
					run(ops, got)
					run(ref, want)
					sameNumbers(t, fmt.Sprintf("%g at %d", bad, at), got, want)
				}
			}
		}
	})
}

// TestTilesOfAnyLength: every length, width and token, with extreme values; the
// bytes of other tokens stay.
func TestTilesOfAnyLength(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		rng := rand.New(rand.NewPCG(15, 16))
		for n := 0; n <= 200; n++ {
			for _, T := range []int{1, 2, 3, 4, 8, 12} {
				tok, x := rng.IntN(T), wild(rng, n)
				got, want := make([]byte, 48*T*(n/32+1)+4*T*n), make([]byte, 48*T*(n/32+1)+4*T*n)
				for i := range got {
					got[i] = byte(i * 7)
					want[i] = got[i]
				}
				for name, run := range map[string]func(o *Ops, tile []byte){
					"Quantize": func(o *Ops, tile []byte) { o.Quantize(tile[:quant.ActInt8.ActBytes(T, n)], x, T, tok) },
					"Tile":     func(o *Ops, tile []byte) { o.Tile(tile[:quant.ActF32.ActBytes(T, n)], x, T, tok) },
				} {
					run(ops, got)
					run(ref, want)
					if string(got) != string(want) {
						t.Fatalf("%s of %d values as token %d of %d differs from the portable one", name, n, tok, T)
					}
				}
			}
		}
	})
}

// TestRotateShapes: any number of pairs and heads, extreme values.
func TestRotateShapes(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		rng := rand.New(rand.NewPCG(17, 18))
		for dim := 2; dim <= 160; dim += 2 {
			for _, neox := range []bool{false, true} {
				for _, pairs := range []int{dim / 2, rng.IntN(dim/2 + 1), dim / 16 * 8} {
					cos, sin := noise(rng, pairs, 1), noise(rng, pairs, 1)
					got := wild(rng, rng.IntN(5)*dim)
					want := append([]float32(nil), got...)
					ops.Rotate(got, dim, cos, sin, neox)
					ref.Rotate(want, dim, cos, sin, neox)
					sameNumbers(t, fmt.Sprintf("dim %d pairs %d neox %v", dim, pairs, neox), got, want)
				}
			}
		}
	})
}

// TestScoreAndValuesShapes: all dims and rows, extreme values.
func TestScoreAndValuesShapes(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		rng := rand.New(rand.NewPCG(19, 20))
		for dim := 8; dim <= 136; dim += 8 {
			for n := 1; n <= MaxRows; n++ {
				rows := make([]Row, n)
				for r := range rows {
					rows[r].Scale = wild(rng, 1)[0]
				}
				in, page := wild(rng, n*max(dim, Keys)), wild(rng, dim*Keys)
				outputs := wild(rng, n*dim+16)
				for name, run := range map[string]func(o *Ops) []float32{
					"Score": func(o *Ops) []float32 {
						s := make([]float32, n*Keys+16)
						o.Score(s, in, page, n, dim, Keys)
						return s
					},
					"Values": func(o *Ops) []float32 {
						out := append([]float32(nil), outputs...)
						o.Values(out, in, page, rows, dim, Keys)
						return out
					},
				} {
					sameNumbers(t, fmt.Sprintf("%s dim %d rows %d", name, dim, n), run(ops), run(ref))
				}
			}
		}
	})
}

// TestSoftmaxStates: any state, mask and scores, zeros of both signs included.
func TestSoftmaxStates(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		rng := rand.New(rand.NewPCG(21, 22))
		for i := range 3000 {
			n := 1 + rng.IntN(MaxRows)
			got, s := make([]Row, n), wild(rng, n*Keys+8)
			for r := range got {
				got[r].Reset()
				got[r].First, got[r].Last = int32(rng.IntN(100)-20), int32(rng.IntN(100)-20)
				if rng.IntN(2) == 0 {
					got[r].First, got[r].Last = math.MinInt32, math.MaxInt32
				}
				if rng.IntN(2) == 0 {
					got[r].Max = wild(rng, 1)[0]
					copy(got[r].Sum[:], wild(rng, 16))
				}
				if rng.IntN(3) == 0 { // the largest is a zero
					for k := range Keys {
						s[r*Keys+k] = [...]float32{0, float32(math.Copysign(0, -1)), -1}[rng.IntN(3)]
					}
				}
			}
			want, wantS := append([]Row(nil), got...), append([]float32(nil), s...)
			scale, softCap := float32(rng.Float64()), []float32{0, 0, 30, 1}[rng.IntN(4)]
			ops.Softmax(s[:n*Keys], got, scale, softCap)
			ref.Softmax(wantS[:n*Keys], want, scale, softCap)
			what := fmt.Sprintf("case %d", i)
			sameNumbers(t, what, s, wantS)
			for r := range got {
				sameNumbers(t, what, append([]float32{got[r].Max, got[r].Scale}, got[r].Sum[:]...), append([]float32{want[r].Max, want[r].Scale}, want[r].Sum[:]...))
				if got[r].First != want[r].First || got[r].Last != want[r].Last {
					t.Fatalf("%s: the range of keys changed", what)
				}
			}
		}
	})
}

// TestSoftmaxIgnoresNaN: a NaN score is no maximum and spoils no other weight.
func TestSoftmaxIgnoresNaN(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		for at := range Keys {
			s := noise(rand.New(rand.NewPCG(23, 24)), Keys, 1)
			s[at] = float32(math.NaN())
			want := append([]float32(nil), s...)
			gotRow, wantRow := []Row{{Max: Hidden, Last: 63}}, []Row{{Max: Hidden, Last: 63}}
			ops.Softmax(s, gotRow, 1, 0)
			ref.Softmax(want, wantRow, 1, 0)
			sameNumbers(t, fmt.Sprintf("NaN at %d", at), append(s, gotRow[0].Max), append(want, wantRow[0].Max))
		}
	})
}

// TestFinishLengths: all lengths, sums and outputs of any kind.
func TestFinishLengths(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		rng := rand.New(rand.NewPCG(25, 26))
		for n := 0; n <= 200; n++ {
			o, row := wild(rng, n), Row{}
			copy(row.Sum[:], wild(rng, 16))
			got, want := make([]float32, n+8), make([]float32, n+8)
			ops.Finish(got[:n], o, &row)
			ref.Finish(want[:n], o, &row)
			sameNumbers(t, fmt.Sprintf("length %d", n), got, want)
		}
	})
}

// TestNoAllocations: no operation of any level allocates.
func TestNoAllocations(t *testing.T) {
	for _, l := range levels() {
		for _, c := range cases(For(l), 64, 3) {
			if n := testing.AllocsPerRun(10, c.run); n != 0 {
				t.Errorf("%s: %s allocates %g times", l, c.name, n)
			}
		}
	}
}
