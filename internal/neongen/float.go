package neongen

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Float describes a format that widens its weights to float32.
type Float struct {
	Name  string
	Value int // bytes of a packed value

	// Widen loads a column, the 16 values at base, as float32.
	Widen func(a *Asm, dst []V, base R)
}

// Generate writes the kernels of all tile widths.
func (f Float) Generate() {
	a := &Asm{}
	for _, T := range quant.TileTokens {
		f.generate(a, T)
	}
	a.Generate()
}

// generate writes one kernel. A single token takes several groups side by side:
// an accumulator waits for its own last sum, and 16 of them hide that. The groups
// that are left go one by one.
func (f Float) generate(a *Asm, T int) {
	k := open(a, f.Name, T)
	groupBytes := k.Reg()
	k.Do("MOVD $%d, %v", f.Value*quant.Lanes, groupBytes)
	k.Do("MUL %v, %v", k.n, groupBytes)
	if wide := quarters; T == 1 {
		k.Label("wide")
		k.Do("CMP $%d, %v", wide, k.groups)
		k.Do("BLT narrow")
		f.passes(k, "wide", wide, groupBytes)
		k.Do("SUB $%d, %v", wide, k.groups)
		k.Do("B wide")
		k.Label("narrow")
		k.Do("CBZ %v, done", k.groups)
	}
	k.Label("group")
	f.passes(k, "group", 1, groupBytes)
	k.Down(k.groups, "group")
	k.Label("done")
	k.Do("RET")
}

// passes walks groups groups once for each pass, and goes on behind them.
func (f Float) passes(k *kernel, label string, groups int, groupBytes R) {
	s := shape{4, quarters, groups}
	if k.T == 12 {
		s.tokens = 6
	}
	for i, cells := range s.passes(k.T) {
		k.Scope(func() { f.pass(k, fmt.Sprint(label, "pass", i), cells, groups, groupBytes) })
	}
	for range groups {
		k.Do("ADD %v, %v", groupBytes, k.w)
	}
	k.Do("ADD $%d, %v", 4*quant.Lanes*groups, k.out)
}

// pass walks the columns for some cells and stores their results.
func (f Float) pass(k *kernel, label string, cells []Cell, groups int, groupBytes R) {
	acc := k.begin(cells)
	weights := []R{k.wp}
	for len(weights) < groups {
		next := k.Reg()
		k.Do("ADD %v, %v, %v", groupBytes, weights[len(weights)-1], next)
		weights = append(weights, next)
	}
	k.Label(label)
	k.Scope(func() { f.multiply(k, cells, weights, acc) })
	for _, w := range weights {
		k.Do("ADD $%d, %v", f.Value*quant.Lanes, w)
	}
	k.Do("ADD $%d, %v", 4*k.T, k.ap)
	k.Down(k.count, label)
	k.store(cells, acc)
}

// multiply adds one column: acc = fma(w, x, acc).
func (f Float) multiply(k *kernel, cells []Cell, weights []R, acc []V) {
	first, n := tokens(cells)
	x := k.loadTokens(n, 4*first)
	column := k.Vecs(quarters)
	for group, w := range weights {
		f.Widen(k.Asm, column, w)
		for i, c := range cells {
			if c.Group == group {
				v, lane := x(c.Token - first)
				k.FMLAElement(acc[i], column[c.Quarter], v, lane)
			}
		}
	}
}
