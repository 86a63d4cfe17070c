package compute

import (
	"fmt"
	"math"
)

// NewRope returns the table of rotary position embeddings (Su et al., "RoFormer")
// for positions 0 to positions−1.
//
// dims values of a head are rotated, in pairs; headDim−dims are copied. The
// frequency of pair i is base^(−2i/dims), divided by factors[i] where factors is
// not empty: scaled variants differ in those factors only. Angles, sines and
// cosines are computed in float64 by arithmetic that is the same on every
// machine, and rounded to float32 once.
//
// It panics when the numbers make no table: the caller checks a model's
// hyperparameters.
func NewRope(headDim, dims, positions int, base float64, factors []float32, neox bool) *Rope {
	return NewScaledRope(headDim, dims, positions, base, factors, 1, neox)
}

// NewScaledRope is NewRope with sines and cosines times magnitude, which some
// scaled variants change besides the frequencies.
func NewScaledRope(headDim, dims, positions int, base float64, factors []float32, magnitude float64, neox bool) *Rope {
	pairs := dims / 2
	if dims <= 0 || dims%2 != 0 || dims > headDim || positions <= 0 || !(base > 0) || !(magnitude > 0) || (len(factors) != 0 && len(factors) != pairs) {
		panic(fmt.Sprintf("compute: rope of %d of %d dimensions, %d positions, base %g, %d factors", dims, headDim, positions, base, len(factors)))
	}
	r := &Rope{
		Pairs: pairs, Neox: neox, Positions: positions,
		Cos: make([]float32, positions*pairs), Sin: make([]float32, positions*pairs),
	}
	for i := range pairs {
		frequency := power(base, -2*float64(i)/float64(dims))
		if len(factors) != 0 {
			frequency /= float64(factors[i])
		}
		for p := range positions {
			sin, cos := sinCos(float64(float64(p) * frequency))
			r.Sin[p*pairs+i], r.Cos[p*pairs+i] = float32(float64(sin*magnitude)), float32(float64(cos*magnitude))
		}
	}
	return r
}

// YaRN returns the factors and the magnitude of positions stretched by a factor
// beyond the original context (Peng et al., "YaRN: efficient context window
// extension of large language models", arXiv:2309.00071): pairs that turn more
// than 32 times within it keep their frequency, those that turn less than once are
// slowed by the factor, and those between are blended.
func YaRN(dims, original int, base, factor float64) (factors []float32, magnitude float64) {
	turns := func(n float64) float64 { // the pair that turns n times
		return float64(dims) * logarithm(float64(original)/(n*2*math.Pi)) / (2 * logarithm(base))
	}
	low, high := max(math.Floor(turns(32)), 0), min(math.Ceil(turns(1)), float64(dims-1))
	if low == high {
		high += 0.001
	}
	for i := range dims / 2 {
		slow := min(max((float64(i)-low)/(high-low), 0), 1)
		factors = append(factors, float32(1/(float64(slow/factor)+(1-slow))))
	}
	return factors, 1 + float64(0.1*logarithm(factor))
}

// The functions below use +, −, ×, ÷ and exact steps alone, and round every
// product before it is added, so that no compiler fuses two of them: their bits
// do not depend on the machine, as those of package math may.

// power returns x to the power of y for positive x, to a few units in the last
// place.
func power(x, y float64) float64 { return exponential(float64(y * logarithm(x))) }

const (
	ln2High = 6.93147180369123816490e-01 // 33 bits: products with small integers are exact
	ln2Low  = 1.90821492927058770002e-10
)

// logarithm returns ln x of a positive, normal x: x = m·2ᵏ with m around 1, and
// ln m = 2·artanh((m−1)/(m+1)).
func logarithm(x float64) float64 {
	m, k := math.Frexp(x)
	if m < math.Sqrt2/2 {
		m, k = 2*m, k-1
	}
	s := (m - 1) / (m + 1)
	square := float64(s * s)
	sum := 0.0
	for n := 23; n >= 1; n -= 2 {
		sum = float64(sum*square) + 1/float64(n)
	}
	low := float64(float64(k)*ln2Low) + float64(2*s*sum)
	return float64(float64(k)*ln2High) + low
}

// exponential returns e to the power of x: x = k·ln 2 + f, and a Taylor series
// of f.
func exponential(x float64) float64 {
	k := math.Floor(float64(x*math.Log2E) + 0.5)
	f := (x - float64(k*ln2High)) - float64(k*ln2Low)
	sum := 1.0
	for n := 17; n >= 1; n-- {
		sum = float64(sum*f)/float64(n) + 1
	}
	return math.Ldexp(sum, int(k))
}

// π/2 in three parts of 33 bits (the last: what is left): products with integers
// below 2²⁰ are exact.
const (
	halfPi1 = 1.57079632673412561417e+00
	halfPi2 = 6.07710050630396597660e-11
	halfPi3 = 2.02226624879595063154e-21
)

// sinCos returns the sine and cosine of a non-negative x. It is exact to a few
// units of 2⁻⁵³ up to a million.
func sinCos(x float64) (sin, cos float64) {
	n := math.Floor(float64(x*(2/math.Pi)) + 0.5)
	f := ((x - float64(n*halfPi1)) - float64(n*halfPi2)) - float64(n*halfPi3)
	square := float64(f * f)
	sin, cos = 1, 1
	for k := 19; k >= 3; k -= 2 {
		sin = 1 - float64(sin*square)/float64(k*(k-1))
		cos = 1 - float64(cos*square)/float64((k-1)*(k-2))
	}
	sin = float64(sin * f)
	switch uint64(n) % 4 {
	case 1:
		return cos, -sin
	case 2:
		return -sin, -cos
	case 3:
		return -cos, sin
	}
	return sin, cos
}
