package codebook

import (
	"math"
	"slices"
	"testing"
)

// Quantisers search the levels in order, and kernels multiply |level| by an int8
// with the level's sign, which −128 would overflow.
func TestIQ4IsAscendingAndHasNoMinus128(t *testing.T) {
	levels := IQ4()
	if !slices.IsSorted(levels[:]) || slices.Contains(levels[:], math.MinInt8) {
		t.Errorf("the levels are %d", levels)
	}
}
