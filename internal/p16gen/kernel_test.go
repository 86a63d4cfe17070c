package p16gen

import (
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Every token, half and group is a cell of exactly one pass, and a pass lists
// its tokens in ascending order, as store needs them.
func TestPassesCoverEveryCellOnce(t *testing.T) {
	for _, l := range []level{avx2, avx512} {
		for _, T := range quant.TileTokens {
			for _, tokens := range []int{1, 4, 6, 12} {
				for _, halves := range []int{1, 2} {
					for _, groups := range []int{1, 4} {
						seen := map[Cell]int{}
						for _, cells := range passes(l, T, tokens, halves, groups) {
							for i, c := range cells {
								seen[c]++
								if i > 0 && c.Token < cells[i-1].Token {
									t.Fatalf("%v after %v", c, cells[i-1])
								}
							}
						}
						if want := T * l.halves() * groups; len(seen) != want {
							t.Fatalf("%s, %d tokens by %d: %d cells, want %d", l.name, T, tokens, len(seen), want)
						}
						for c, n := range seen {
							if n != 1 {
								t.Fatalf("%s, %d tokens by %d: %+v in %d passes", l.name, T, tokens, c, n)
							}
						}
					}
				}
			}
		}
	}
}
