package compute

import (
	"math"
	"testing"
)

// TestYaRN: the fastest pairs keep their frequency, the slowest are slowed by the
// whole factor, and those between grow from one to the other.
func TestYaRN(t *testing.T) {
	const dims, original, base, factor = 128, 4096, 1e6, 4
	factors, magnitude := YaRN(dims, original, base, factor)
	if want := 1 + 0.1*math.Log(factor); math.Abs(magnitude-want) > 1e-12 {
		t.Errorf("magnitude %v, want %v", magnitude, want)
	}
	if len(factors) != dims/2 || factors[0] != 1 || factors[dims/2-1] != factor {
		t.Fatalf("%d factors from %v to %v", len(factors), factors[0], factors[len(factors)-1])
	}
	for i, f := range factors {
		turns := original * math.Pow(base, -2*float64(i)/dims) / (2 * math.Pi)
		if turns > 40 && f != 1 || turns < 0.8 && f != factor {
			t.Errorf("pair %d turns %v times, factor %v", i, turns, f)
		}
		if i > 0 && f < factors[i-1] {
			t.Errorf("factor %d is %v, the one before %v", i, f, factors[i-1])
		}
	}
}

// TestScaledRope: a magnitude multiplies sines and cosines.
func TestScaledRope(t *testing.T) {
	plain, scaled := NewRope(8, 8, 5, 100, nil, true), NewScaledRope(8, 8, 5, 100, nil, 1.5, true)
	for i := range plain.Cos {
		if d := math.Abs(float64(scaled.Cos[i]) - 1.5*float64(plain.Cos[i])); d > 1e-6 {
			t.Errorf("cosine %d is off by %g", i, d)
		}
		if d := math.Abs(float64(scaled.Sin[i]) - 1.5*float64(plain.Sin[i])); d > 1e-6 {
			t.Errorf("sine %d is off by %g", i, d)
		}
	}
}
