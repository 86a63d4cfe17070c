package fit

import (
	"math"
	"math/rand/v2"
	"testing"
)

func errorOf(x []float32, scale float32, least, most int) (sum float64) {
	for _, v := range x {
		level := 0
		if scale != 0 {
			level = Level(v/scale, least, most)
		}
		sum += math.Pow(float64(v-scale*float32(level)), 2)
	}
	return sum
}

// TestScaleIsBetterThanTheSpan: never worse than the scale that just spans the
// values, and in the mean clearly better; values that are levels are kept.
func TestScaleIsBetterThanTheSpan(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct{ least, most int }{{-8, 7}, {-4, 3}} {
		var fitted, plain float64
		for range 500 {
			x := make([]float32, 32)
			var extreme float32
			for i := range x {
				x[i] = float32(rng.NormFloat64())
				if abs(x[i]) > abs(extreme) {
					extreme = x[i]
				}
			}
			f, p := errorOf(x, Scale(x, nil, c.least, c.most), c.least, c.most), errorOf(x, extreme/float32(c.least), c.least, c.most)
			if f > p*1.001 {
				t.Fatalf("levels %d to %d: error %g, the span alone %g", c.least, c.most, f, p)
			}
			fitted, plain = fitted+f, plain+p
		}
		if fitted > 0.9*plain {
			t.Errorf("levels %d to %d: error %g of %g", c.least, c.most, fitted, plain)
		}
		x := make([]float32, 16)
		for i := range x {
			x[i] = 0.25 * float32(c.least+i%(c.most-c.least+1))
		}
		if e := errorOf(x, Scale(x, nil, c.least, c.most), c.least, c.most); e > 1e-9 {
			t.Errorf("values that are levels are off by %g", e)
		}
	}
	if Scale(make([]float32, 8), nil, -8, 7) != 0 {
		t.Error("zeros have a scale")
	}
}

// TestLineIsBetterThanTheSpan, whatever the sign of the values, and its offset is
// never positive.
func TestLineIsBetterThanTheSpan(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, shift := range []float64{0, 3, -3} {
		var fitted, plain float64
		for range 500 {
			x := make([]float32, 16)
			low, high := float32(0), float32(0)
			for i := range x {
				x[i] = float32(rng.NormFloat64() + shift)
				low, high = min(low, x[i]), max(high, x[i])
			}
			scale, offset := Line(x, nil, 3)
			if scale < 0 || offset > 0 {
				t.Fatalf("scale %g, offset %g", scale, offset)
			}
			fitted += float64(Error(x, nil, scale, offset, 3))
			plain += float64(Error(x, nil, (high-low)/3, low, 3))
		}
		if fitted > 0.9*plain {
			t.Errorf("around %g: error %g of %g", shift, fitted, plain)
		}
	}
	if s, o := Line(make([]float32, 8), nil, 3); s != 0 || o != 0 {
		t.Errorf("zeros have scale %g and offset %g", s, o)
	}
}

// TestLevelRoundsToEven: every level, halves between them, and what is beyond.
func TestLevelRoundsToEven(t *testing.T) {
	for x := float32(-140); x <= 140; x += 0.125 {
		want := int(math.RoundToEven(float64(min(max(x, -128), 127))))
		if got := Level(x, -128, 127); got != want {
			t.Fatalf("%g is level %d, want %d", x, got, want)
		}
	}
}
