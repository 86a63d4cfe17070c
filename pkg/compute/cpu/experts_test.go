package cpu

import (
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestChoose: the chosen are those that a stable sort by score puts first.
func TestChoose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scores := rapid.SliceOfN(rapid.Map(rapid.IntRange(-3, 3), func(i int) float32 { return float32(i) }), 1, 20).Draw(t, "scores")
		order := make([]int32, len(scores))
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(scores[b], scores[a]) })
		want := order[:rapid.IntRange(1, len(scores)).Draw(t, "used")]
		slices.Sort(want)
		got := make([]int32, len(want))
		choose(got, scores)
		if !slices.Equal(got, want) {
			t.Fatalf("of %v chosen %v, want %v", scores, got, want)
		}
	})
}
