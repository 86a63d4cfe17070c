package p16

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Asm is a generated vector kernel for one tile width. It multiplies groups
// packed groups (at least one) by a tile and writes out[t*ldo+16*g+r]; n is the
// length of a row in the format's own steps.
type Asm func(w, tile *byte, out *float32, n, groups, ldo int)

// Widths is a kernel for each width of quant.TileTokens, in that order. The
// zero value stands for a level without kernels.
type Widths [len(quant.TileTokens)]Asm

// Wide is a generated kernel for tiles tiles of quant.WideTile tokens one after
// the other; the rest is as in Asm.
type Wide func(w, tile *byte, out *float32, n, groups, ldo, tiles int)

// Kernels are the kernels of one format at every level.
type Kernels struct {
	Act        quant.Act
	GroupBytes func(cols int) int
	Step       int // columns of one step of the vector kernels
	Portable   quant.MatMul
	AVX2       Widths
	AVX512     Widths
	NEON       Widths

	// One of these serves wide tiles at level AMX, where narrow ones are AVX512's.
	AMX        Wide
	AVX512Wide Asm // a tile at a time
}

// MatMul returns the kernel of a level, or the portable one where the build has
// none. The caller sees to it that the CPU has the level (Best).
func (k Kernels) MatMul(level quant.Level) quant.MatMul {
	widths := Widths{}
	switch level {
	case quant.AMX:
		return k.wide()
	case quant.AVX2:
		widths = k.AVX2
	case quant.AVX512:
		widths = k.AVX512
	case quant.NEON:
		widths = k.NEON
	}
	if widths[0] == nil {
		return k.Portable
	}
	return func(w, tile []byte, out []float32, cols, groups, ldo, T int) {
		check(k.Act, k.GroupBytes(cols), w, tile, out, cols, groups, ldo, T)
		k.checkStep(cols)
		if groups == 0 {
			return
		}
		for i, n := range quant.TileTokens {
			if n == T {
				widths[i](&w[0], &tile[0], &out[0], cols/k.Step, groups, ldo)
				return
			}
		}
	}
}

// wide returns the kernel of level AMX.
func (k Kernels) wide() quant.MatMul {
	narrow := k.MatMul(quant.AVX512)
	if k.AMX == nil && k.AVX512Wide == nil {
		return narrow
	}
	return func(w, tile []byte, out []float32, cols, groups, ldo, T int) {
		if T%quant.WideTile != 0 || T <= 0 {
			narrow(w, tile, out, cols, groups, ldo, T)
			return
		}
		checkSizes(k.Act, k.GroupBytes(cols), w, tile, out, cols, groups, ldo, T)
		k.checkStep(cols)
		if groups == 0 {
			return
		}
		tiles, n := T/quant.WideTile, cols/k.Step
		if k.AMX != nil {
			k.AMX(&w[0], &tile[0], &out[0], n, groups, ldo, tiles)
			return
		}
		size := k.Act.ActBytes(quant.WideTile, cols)
		for i := range tiles {
			k.AVX512Wide(&w[0], &tile[i*size], &out[i*quant.WideTile*ldo], n, groups, ldo)
		}
	}
}

// checkStep panics when rows are not a whole number of steps.
func (k Kernels) checkStep(cols int) {
	if cols%k.Step != 0 {
		panic(fmt.Sprintf("p16: rows of %d columns, not a multiple of %d", cols, k.Step))
	}
}
