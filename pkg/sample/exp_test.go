package sample

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// ulps returns how many units in the last place of want lie between the two.
func ulps(got, want float64) float64 {
	if got == want {
		return 0
	}
	unit := math.Nextafter(math.Abs(want), math.Inf(1)) - math.Abs(want)
	return math.Abs(got-want) / unit
}

func TestExpIsWithinTwoUlps(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	check := func(x float64) {
		t.Helper()
		if got, want := exp(x), math.Exp(x); ulps(got, want) > 2 {
			t.Fatalf("exp(%v) = %v, want %v: %v ulps", x, got, want, ulps(got, want))
		}
	}
	for range 200_000 {
		check(-40 * rng.Float64())
		check(1400*rng.Float64() - 700)
		check(rng.NormFloat64() * 1e-6)
	}
	for _, x := range []float64{0, 1, -1, math.Ln2, -math.Ln2 / 128, 709.78, -708.5, -740, -745, 1e-300} {
		check(x)
	}
}

func TestExpAtTheEdges(t *testing.T) {
	for x, want := range map[float64]float64{
		math.Inf(-1): 0, -746: 0, -1e300: 0, 0: 1, 710: math.Inf(1), math.Inf(1): math.Inf(1),
	} {
		if got := exp(x); got != want {
			t.Errorf("exp(%v) = %v, want %v", x, got, want)
		}
	}
	if got := exp(math.NaN()); got == got {
		t.Errorf("exp(NaN) = %v, want NaN", got)
	}
}

// The bits are part of the kernel set: a change of them is a change of answers.
func TestExpAndLogarithmHaveFixedBits(t *testing.T) {
	h := uint64(14695981039346656037)
	for i := range 20_000 {
		x := -float64(i) / 512
		h = (h ^ math.Float64bits(exp(x))) * 1099511628211
		h = (h ^ math.Float64bits(logarithm(1+float64(i)/7))) * 1099511628211
	}
	const want = 0xc82b91fd2369ceb7
	if h != want {
		t.Errorf("hash of the bits is %#x, want %#x", h, uint64(want))
	}
}

func TestExpRowHasTheBitsOfExp(t *testing.T) {
	row := []float32{0, -1e-7, -1, -3.5, -87, -354.2, -354.5, -372, -373, -1e30, float32(math.Inf(-1))}
	for range 50_000 {
		row = append(row, -rand.Float32()*400)
	}
	got, want := make([]float64, len(row)), 0.0
	total := expRow(got, row, 0, 2)
	for i, v := range row {
		w := exp(2 * float64(v))
		want += w
		if got[i] != w {
			t.Fatalf("weight of %v is %v, want %v", v, got[i], w)
		}
	}
	if total != want {
		t.Errorf("sum %v, want %v", total, want)
	}
}

func TestExpTableIsRoundedExactly(t *testing.T) {
	for j, got := range exp2Table {
		// 2^(j/64) = the 64th root of 2^j: square six times and compare.
		for _, side := range []float64{math.Nextafter(got, 0), math.Nextafter(got, 4)} {
			mid := new(big.Float).SetPrec(600).SetFloat64(got)
			mid.Add(mid, big.NewFloat(side)).Quo(mid, big.NewFloat(2))
			for range 6 {
				mid.Mul(mid, mid)
			}
			target := new(big.Float).SetPrec(600).SetMantExp(big.NewFloat(1), j)
			if below := side < got; (mid.Cmp(target) > 0) == below && j != 0 {
				t.Errorf("entry %d = %v is not the nearest float64", j, got)
			}
		}
	}
}

func TestLogarithmIsWithinTwoUlps(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200_000 {
		for _, x := range []float64{rng.Float64() + 0x1p-60, 1 + rng.Float64()*1e5, math.Exp(600 * rng.NormFloat64() / 4), 1 + 1e-9*rng.NormFloat64()} {
			if math.IsInf(x, 0) || x < 0x1p-1022 {
				continue
			}
			if got, want := logarithm(x), math.Log(x); ulps(got, want) > 2 {
				t.Fatalf("logarithm(%v) = %v, want %v: %v ulps", x, got, want, ulps(got, want))
			}
		}
	}
	if got := logarithm(1); got != 0 {
		t.Errorf("logarithm(1) = %v, want 0", got)
	}
}
