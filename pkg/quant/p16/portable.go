package p16

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// maxTokens is the widest tile.
const maxTokens = 12

// Lane is one row of one block of 32 columns, unpacked: column c weighs
// D·W[c] + M or, with minimums of its own for each half of the columns
// (Int8.SubMins), D·W[c] − M·Mins[c/16].
type Lane struct {
	W    [quant.Block]int16
	D, M float32
	Mins [2]int16
}

// Int8 is a format whose kernels take int8 activations.
type Int8 struct {
	// GroupBytes returns the bytes of a packed group of cols columns.
	GroupBytes func(cols int) int
	// Unpack reads row r of block i of a group.
	Unpack func(lane *Lane, group []byte, i, r int)
	// Min says that the format has a minimum (Lane.M).
	Min bool
	// SubMins says that the halves of a block have minimums (Lane.Mins). It
	// excludes Min.
	SubMins bool
}

// MatMul is the portable kernel of the format, and the reference of its vector
// kernels (quant.MatMul).
func (f Int8) MatMul(w, tile []byte, out []float32, cols, groups, ldo, T int) {
	groupBytes := f.GroupBytes(cols)
	check(quant.ActInt8, groupBytes, w, tile, out, cols, groups, ldo, T)
	for g := range groups {
		group := w[g*groupBytes:][:groupBytes]
		for r := range quant.Lanes {
			acc := f.row(group, tile, r, cols/quant.Block, T)
			for t, v := range acc[:T] {
				out[t*ldo+g*quant.Lanes+r] = v
			}
		}
	}
}

// row returns the dot products of one row with T tokens.
func (f Int8) row(group, tile []byte, r, blocks, T int) (acc [maxTokens]float32) {
	var lane Lane
	for i := range blocks {
		f.Unpack(&lane, group, i, r)
		b := int8Block(tile, T, i)
		for t := range T {
			d, ds := b.scale(t)
			acc[t] = FMA32(float32(dot(&lane.W, b.q(t))), float32(lane.D*d), acc[t])
			if f.Min {
				acc[t] = FMA32(lane.M, ds, acc[t])
			}
			if f.SubMins {
				low, high := b.sums(t)
				sum := int32(lane.Mins[0])*low + int32(lane.Mins[1])*high
				acc[t] = FMA32(-float32(sum), float32(lane.M*d), acc[t])
			}
		}
	}
	return acc
}

// dot is the exact integer dot product of 32 weights and 32 int8 activations.
func dot(w *[quant.Block]int16, q []byte) int32 {
	q = q[:quant.Block]
	var s0, s1 int32
	for i := 0; i < quant.Block; i += 2 {
		s0 += int32(w[i]) * int32(int8(q[i]))
		s1 += int32(w[i+1]) * int32(int8(q[i+1]))
	}
	return s0 + s1
}

// lanes are blocks to unpack into: Unpack is a value, so a block of the caller's
// own would be allocated for each row.
var lanes = sync.Pool{New: func() any { return new(Lane) }}

// DecodeRow writes row r of a packed group: round(D·W) and, with a minimum,
// the rounded sum with M. Formats with SubMins decode for themselves.
func (f Int8) DecodeRow(dst []float32, group []byte, r, cols int) {
	lane := lanes.Get().(*Lane)
	defer lanes.Put(lane)
	for i := range cols / quant.Block {
		f.Unpack(lane, group, i, r)
		part := dst[i*quant.Block:][:quant.Block]
		for c, w := range lane.W {
			part[c] = float32(lane.D * float32(w))
			if f.Min {
				part[c] += lane.M
			}
		}
	}
}

// Float is a format whose kernels widen weights to float32 and take float32
// activations.
type Float struct {
	// GroupBytes returns the bytes of a packed group of cols columns.
	GroupBytes func(cols int) int
	// Column widens column c of a group.
	Column func(w *[quant.Lanes]float32, group []byte, c int)
}

// MatMul is the portable kernel of the format, and the reference of its vector
// kernels (quant.MatMul).
func (f Float) MatMul(w, tile []byte, out []float32, cols, groups, ldo, T int) {
	groupBytes := f.GroupBytes(cols)
	check(quant.ActF32, groupBytes, w, tile, out, cols, groups, ldo, T)
	for g := range groups {
		acc := f.group(w[g*groupBytes:][:groupBytes], tile, cols, T)
		for t := range T {
			copy(out[t*ldo+g*quant.Lanes:], acc[t][:])
		}
	}
}

// group returns the dot products of the rows of one group with T tokens.
func (f Float) group(group, tile []byte, cols, T int) (acc [maxTokens][quant.Lanes]float32) {
	var column [quant.Lanes]float32
	for c := range cols {
		f.Column(&column, group, c)
		for t := range T {
			x := math.Float32frombits(binary.LittleEndian.Uint32(tile[4*(c*T+t):]))
			fmaLanes(&acc[t], &column, x)
		}
	}
	return acc
}

// check panics when a kernel is called with slices too short for its sizes or
// with a tile width that does not exist: mistakes of the program, which a vector
// kernel would turn into reads and writes out of bounds.
func check(act quant.Act, groupBytes int, w, tile []byte, out []float32, cols, groups, ldo, T int) {
	if !slices.Contains(quant.TileTokens[:], T) {
		panic(fmt.Sprintf("p16: no kernel for a tile of %d tokens", T))
	}
	checkSizes(act, groupBytes, w, tile, out, cols, groups, ldo, T)
}

// checkSizes is check for any width.
func checkSizes(act quant.Act, groupBytes int, w, tile []byte, out []float32, cols, groups, ldo, T int) {
	switch {
	case cols <= 0 || groups < 0 || ldo < 0:
		panic(fmt.Sprintf("p16: %d columns, %d groups, rows %d apart", cols, groups, ldo))
	case len(w) < groups*groupBytes || len(tile) < act.ActBytes(T, cols):
		panic(fmt.Sprintf("p16: %d bytes of weights and %d of activations for %d groups of %d columns",
			len(w), len(tile), groups, cols))
	case groups > 0 && len(out) < (T-1)*ldo+groups*quant.Lanes:
		panic(fmt.Sprintf("p16: %d outputs for %d tokens of %d groups, %d apart", len(out), T, groups, ldo))
	}
}
