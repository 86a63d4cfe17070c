package p16

import (
	"math"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Bit patterns of binary64 that decide how a sum is narrowed to binary32.
const (
	dropped   = 1<<29 - 1 // mantissa bits that binary32 does not have
	half      = 1 << 28   // of them: exactly half a unit in the last place
	minNormal = 0x1p-126  // below it binary32 has fewer mantissa bits
)

// FMA32 returns a·b + c rounded once to float32, to nearest even, as a fused
// multiply-add instruction does, with subnormal numbers kept.
//
// The product is exact in float64. Rounding the sum to float64 and then to
// float32 errs only where the float64 sum is halfway between two float32
// values; the sum is then first rounded to odd (Boldo and Melquiond, "Emulation
// of a FMA and correctly rounded sums: proved algorithms using rounding to odd").
func FMA32(a, b, c float32) float32 {
	p := float64(a) * float64(b)
	s := p + float64(c)
	if math.Float64bits(s)&dropped != half && math.Abs(s) >= minNormal {
		return float32(s)
	}
	return roundToOdd(p, float64(c), s)
}

// fmaLanes is acc[r] = FMA32(w[r], x, acc[r]), with the usual case in the loop.
func fmaLanes(acc, w *[quant.Lanes]float32, x float32) {
	x64 := float64(x)
	for r := range acc {
		s := float64(w[r])*x64 + float64(acc[r])
		if math.Float64bits(s)&dropped != half && math.Abs(s) >= minNormal {
			acc[r] = float32(s)
		} else {
			acc[r] = FMA32(w[r], x, acc[r])
		}
	}
}

// roundToOdd narrows p + c to float32 given s, the sum rounded to float64.
func roundToOdd(p, c, s float64) float32 {
	if s == 0 || math.IsNaN(s) || math.IsInf(s, 0) {
		return float32(s)
	}
	t := s - p
	rest := (p - (s - t)) + (c - t) // p + c − s, exact (Knuth's TwoSum)
	bits := math.Float64bits(s)
	if rest == 0 || bits&1 == 1 {
		return float32(s)
	}
	if (rest > 0) == (s > 0) {
		bits++
	} else {
		bits--
	}
	return float32(math.Float64frombits(bits))
}
