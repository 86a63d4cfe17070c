package neongen

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// quarters is the number of vectors that hold a 32-bit value of each lane of a
// group.
const quarters = quant.Lanes / 4

// Cell is what one accumulator of a pass holds: the dot products of 4 lanes of a
// group with one token.
type Cell struct {
	Group   int // counted from the group that the pass begins with
	Quarter int // lanes 4·Quarter and the 3 after it
	Token   int
}

// shape says how much of a tile one pass takes: its accumulators are the product.
type shape struct{ tokens, quarters, groups int }

// passes divides the tokens of a tile and the quarters of groups groups.
func (s shape) passes(T int) [][]Cell {
	var all [][]Cell
	for q := 0; q < quarters; q += s.quarters {
		for t := 0; t < T; t += s.tokens {
			var cells []Cell
			for token := t; token < min(t+s.tokens, T); token++ {
				for group := range s.groups {
					for quarter := q; quarter < q+s.quarters; quarter++ {
						cells = append(cells, Cell{group, quarter, token})
					}
				}
			}
			all = append(all, cells)
		}
	}
	return all
}

// kernel is the state of the kernel being generated.
type kernel struct {
	*Asm
	T int // tokens of the tile

	w, tile, out, n, groups, ldo R // arguments; ldo in bytes
	wp, ap, count                R // of the pass
}

// open starts the function of a tile width.
func open(a *Asm, format string, T int) *kernel {
	a.Func(fmt.Sprintf("neonT%d", T), "func(w, tile *byte, out *float32, n, groups, ldo int)",
		fmt.Sprintf("multiplies groups of %s rows by a tile of %d tokens (p16.Asm)", format, T), 0)
	k := &kernel{Asm: a, T: T}
	k.w, k.tile, k.out = a.Arg("w"), a.Arg("tile"), a.Arg("out")
	k.n, k.groups, k.ldo = a.Arg("n"), a.Arg("groups"), a.Arg("ldo")
	k.wp, k.ap, k.count = a.Reg(), a.Reg(), a.Reg()
	a.Do("LSL $2, %v", k.ldo)
	return k
}

// begin points at the first weights and activations of a pass and returns its
// accumulators, which are zero.
func (k *kernel) begin(cells []Cell) []V {
	acc := k.Vecs(len(cells))
	for _, v := range acc {
		k.Zero(v)
	}
	k.Do("MOVD %v, %v", k.w, k.wp)
	k.Do("MOVD %v, %v", k.tile, k.ap)
	k.Do("MOVD %v, %v", k.n, k.count)
	return acc
}

// store writes the accumulators of a pass, whose tokens ascend.
func (k *kernel) store(cells []Cell, acc []V) {
	k.Scope(func() {
		row := k.Reg()
		k.Do("MOVD %v, %v", k.out, row)
		token := 0
		for i, c := range cells {
			for ; token < c.Token; token++ {
				k.Do("ADD %v, %v", k.ldo, row)
			}
			k.StoreQ(acc[i], row, 4*quant.Lanes*c.Group+16*c.Quarter)
		}
	})
}

// loadTokens loads 4 bytes of each of n tokens, which follow each other at offset
// from ap, and returns the function that tells in which lane a token is.
func (k *kernel) loadTokens(n, offset int) func(token int) (V, int) {
	var loaded []V
	for ; n > 0; n, offset = n-4, offset+16 {
		v := k.Vec()
		switch n {
		case 1:
			k.LoadS(v, k.ap, offset)
		case 2:
			k.LoadD(v, k.ap, offset)
		default:
			k.LoadQ(v, k.ap, offset)
		}
		loaded = append(loaded, v)
	}
	return func(token int) (V, int) { return loaded[token/4], token % 4 }
}

// tokens returns the first token of a pass and how many it has.
func tokens(cells []Cell) (first, n int) {
	first = cells[0].Token
	return first, cells[len(cells)-1].Token - first + 1
}
