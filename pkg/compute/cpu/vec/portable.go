package vec

import (
	"math"

	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// portable returns the operations in plain Go: the specification of the others.
func portable() Ops {
	return Ops{
		SumSq:    sumSq,
		Norm:     norm,
		Add:      add,
		Exp:      exp,
		SiLUMul:  siluMul,
		GELUMul:  geluMul,
		Quantize: p16.QuantizeTile,
		Tile:     p16.PackF32Tile,
		Rotate:   rotate,
		Score:    score,
		Softmax:  softmax,
		Values:   values,
		Halves:   halves,
		ToHalves: toHalves,
		Codes:    codes,
		Columns:  columns,
		Finish:   finish,
	}
}

// lanes is the number of partial sums of a row.
const lanes = 16

// join adds lanes by halves.
func join(l *[lanes]float32) float32 {
	v := *l
	for n := lanes / 2; n > 0; n /= 2 {
		for i := range n {
			v[i] += v[i+n]
		}
	}
	return v[0]
}

func sumSq(x []float32) float32 {
	var l [lanes]float32
	for i, v := range x {
		l[i%lanes] = p16.FMA32(v, v, l[i%lanes])
	}
	return join(&l)
}

func norm(dst, x, gain []float32, s float32) {
	dst, gain = dst[:len(x)], gain[:len(x)]
	for i, v := range x {
		dst[i] = float32(float32(v*s) * gain[i])
	}
}

func add(x, y []float32) {
	y = y[:len(x)]
	for i := range x {
		x[i] += y[i]
	}
}

func rotate(x []float32, dim int, cos, sin []float32, neox bool) {
	pairs := len(cos)
	next, step := 1, 2 // to the other value of a pair, to the next pair
	if neox {
		next, step = pairs, 1
	}
	for ; len(x) >= dim; x = x[dim:] {
		for i, c := range cos {
			a, b := x[i*step], x[i*step+next]
			x[i*step] = p16.FMA32(a, c, -float32(b*sin[i]))
			x[i*step+next] = p16.FMA32(b, c, float32(a*sin[i]))
		}
	}
}

func siluMul(dst, g, up []float32) {
	dst, up = dst[:len(g)], up[:len(g)]
	for i, x := range g {
		dst[i] = float32(x / (1 + exp32(-x)) * up[i])
	}
}

// The tanh form of GELU is x/(1 + exp(−2·√(2/π)·(x + 0.044715·x³))).
const (
	geluLinear = float32(2 * 0.79788456080286535588)
	geluCubic  = float32(2 * 0.79788456080286535588 * 0.044715)
)

func geluMul(dst, g, up []float32) {
	dst, up = dst[:len(g)], up[:len(g)]
	for i, x := range g {
		z := float32(x * p16.FMA32(float32(x*x), geluCubic, geluLinear))
		dst[i] = float32(x / (1 + exp32(-z)) * up[i])
	}
}

func score(s, q, keys []float32, rows, dim, n int) {
	for r := range rows {
		var sum [Keys]float32
		for d, v := range q[r*dim : (r+1)*dim] {
			for k, key := range keys[d*Keys:][:n] {
				sum[k] = p16.FMA32(v, key, sum[k])
			}
		}
		copy(s[r*Keys:], sum[:n])
	}
}

func softmax(s []float32, rows []Row, scale, softCap float32) {
	for r := range rows {
		softmaxRow((*[Keys]float32)(s[r*Keys:]), &rows[r], scale, softCap)
	}
}

func softmaxRow(s *[Keys]float32, row *Row, scale, softCap float32) {
	largest := row.Max
	for k, v := range s {
		x := float32(v * scale)
		if softCap != 0 {
			x = capped(x, softCap)
		}
		if !row.sees(k) {
			x = Hidden
		}
		s[k] = x
		if x > largest {
			largest = x
		}
	}
	row.Scale = exp32(row.Max - largest)
	row.Max = largest
	for k, x := range s {
		s[k] = 0
		if row.sees(k) {
			s[k] = exp32(x - largest)
		}
	}
	for i, l := range row.Sum {
		row.Sum[i] = p16.FMA32(l, row.Scale, s[i]) + s[i+16] + s[i+32] + s[i+48]
	}
}

func (r *Row) sees(k int) bool { return int32(k) >= r.First && int32(k) <= r.Last }

// capped returns softCap·tanh(x/softCap).
func capped(x, softCap float32) float32 {
	y := x / softCap
	return float32(softCap * (1 - 2/(exp32(y+y)+1)))
}

func values(o, e, values []float32, rows []Row, dim, n int) {
	for r := range rows {
		out := o[r*dim : (r+1)*dim]
		for d := range out {
			out[d] = float32(out[d] * rows[r].Scale)
		}
		for k, weight := range e[r*Keys:][:n] {
			for d, v := range values[k*dim : (k+1)*dim] {
				out[d] = p16.FMA32(weight, v, out[d])
			}
		}
	}
}

func finish(dst, o []float32, row *Row) {
	inverse := 1 / join(&row.Sum)
	for d := range dst {
		dst[d] = float32(o[d]*inverse) + 0
	}
}

func exp(dst, x []float32) {
	for i, v := range x {
		dst[i] = exp32(v)
	}
}

// The steps of exp32. The polynomial is a minimax fit of (exp(f) − 1 − f)/f² on
// |f| ≤ ln 2 / 2, relative error of exp 3e-9 before rounding.
const (
	expMin   = float32(-87)
	expMax   = float32(88)
	log2e    = float32(1.44269504088896340736)
	ln2High  = float32(0.693359375)
	ln2Low   = float32(-2.12194440054690583e-4)
	expC2    = float32(0x1.fffffcp-2)
	expC3    = float32(0x1.555492p-3)
	expC4    = float32(0x1.5558b6p-5)
	expC5    = float32(0x1.1239a2p-7)
	expC6    = float32(0x1.6a4748p-10)
	roundInt = float32(0x1.8p23) // x + roundInt − roundInt rounds to an integer
)

// exp32 returns e to the power of x, clamped to [expMin, expMax]:
//
//	n = round-to-even(x·log2e);  f = fma(n, −ln2High, x);  f = fma(n, −ln2Low, f)
//	p = expC6; p = fma(p, f, c) for c = expC5, expC4, expC3, expC2, 1, 1
//	p·2ⁿ, which is never subnormal
func exp32(x float32) float32 {
	if x < expMin {
		x = expMin
	}
	if x > expMax {
		x = expMax
	}
	n := float32(x*log2e) + roundInt
	exponent := math.Float32bits(n) << 23 // the low bits of n hold the integer
	n -= roundInt
	f := p16.FMA32(n, -ln2High, x)
	f = p16.FMA32(n, -ln2Low, f)
	p := p16.FMA32(expC6, f, expC5)
	p = p16.FMA32(p, f, expC4)
	p = p16.FMA32(p, f, expC3)
	p = p16.FMA32(p, f, expC2)
	p = p16.FMA32(p, f, 1)
	p = p16.FMA32(p, f, 1)
	return float32(p * math.Float32frombits(exponent+127<<23))
}
