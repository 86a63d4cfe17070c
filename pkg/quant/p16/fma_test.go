package p16

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// exactFMA rounds a·b + c once, with arbitrary precision in between.
func exactFMA(a, b, c float32) float32 {
	at := func(x float32) *big.Float { return new(big.Float).SetPrec(1000).SetFloat64(float64(x)) }
	sum := new(big.Float).SetPrec(1000).Mul(at(a), at(b))
	sum.Add(sum, at(c))
	f, _ := sum.Float32()
	return f
}

func TestFMA32RoundsOnce(t *testing.T) {
	check := func(a, b, c float32) {
		t.Helper()
		got, want := FMA32(a, b, c), exactFMA(a, b, c)
		if math.Float32bits(got) != math.Float32bits(want) && (got != 0 || want != 0) {
			t.Fatalf("FMA32(%x, %x, %x) = %x (%#08x), want %x (%#08x)", a, b, c,
				got, math.Float32bits(got), want, math.Float32bits(want))
		}
	}
	// Ties that a second rounding would move: 1 + 2⁻²⁴ ± less than float64 sees.
	check(0x1p-60, 0x1p-30, 1+0x1p-23)
	check(1+0x1p-12, 1+0x1p-12, 0x1p-80)
	check(-(1 + 0x1p-12), 1-0x1p-12, 0x1p-90)
	check(0x1p-75, 0x1p-75, 0x1p-149)
	check(0x1.000002p-75, 0x1p-75, 0x1p-149)
	check(math.MaxFloat32, 1, 0x1p103)
	check(math.MaxFloat32, 1, -0x1p103)
	check(math.MaxFloat32, math.MaxFloat32, math.MaxFloat32)

	rng := rand.New(rand.NewPCG(3, 4))
	for range 200_000 {
		// Few mantissa bits and exponents near each other make ties likely.
		a, b := sparse(rng, 20), sparse(rng, 20)
		c := float32(math.Ldexp(float64(sparse(rng, 0)), exponent(a)+exponent(b)+rng.IntN(60)-30))
		check(a, b, c)
		check(a*0x1p-70, b*0x1p-70, c*0x1p-100)
	}
}

// sparse returns a value of few mantissa bits and an exponent within ±spread.
func sparse(rng *rand.Rand, spread int) float32 {
	bits := uint32(1)<<23 | rng.Uint32()&rng.Uint32()&rng.Uint32()&(1<<23-1) | uint32(rng.IntN(2))
	f := math.Ldexp(float64(bits), rng.IntN(2*spread+1)-spread-23)
	if rng.IntN(2) == 0 {
		f = -f
	}
	return float32(f)
}

func exponent(f float32) int {
	_, e := math.Frexp(float64(f))
	return e
}

func TestFMA32Specials(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	negative := float32(math.Copysign(0, -1))
	for _, c := range []struct{ a, b, c, want float32 }{
		{inf, 1, 1, inf}, {1, 1, -inf, -inf}, {inf, 0, 1, nan}, {inf, 1, -inf, nan}, {nan, 0, 0, nan},
		{0, 5, 0, 0}, {negative, 5, negative, negative}, {negative, 5, 0, 0}, {2, 3, -6, 0},
		{math.MaxFloat32, 2, 0, inf},
	} {
		got := FMA32(c.a, c.b, c.c)
		if math.Float32bits(got) != math.Float32bits(c.want) && (got == got || c.want == c.want) {
			t.Errorf("FMA32(%g, %g, %g) = %g, want %g", c.a, c.b, c.c, got, c.want)
		}
	}
}
