// Package quant says what a weight format is: how a row of weights is stored in
// a file, how it is decoded, and how a CPU multiplies it without widening it.
//
// A format is one folder below this one plus one line in formats. Nothing
// outside that folder and that list may name it.
package quant

import "fmt"

// Lanes is the number of matrix rows that a CPU group interleaves. All packed
// CPU layouts (Pack) hold groups of Lanes rows.
const Lanes = 16

// Block is the number of activations that share one scale in the int8
// activation form, and so the step in which quantised kernels walk a row.
const Block = 32

// Format describes how the values of a weight tensor are stored. Formats are
// immutable values and safe for concurrent use.
type Format struct {
	Name       string // as GGUF tools print it, for example "Q4_0"
	GGML       uint32 // the type number in a GGUF file
	Precision  string // the precision class it serves: fp32, fp16, int8, int4, ...
	BlockElems int    // values in a block; a row is a whole number of blocks
	BlockBytes int    // bytes of a block

	// Decode writes the exact values of src to dst. len(dst) is a multiple of
	// BlockElems and len(src) is len(dst)/BlockElems*BlockBytes. It is the
	// oracle of every other way to read the format.
	Decode func(dst []float32, src []byte)

	// Encode rounds src to the format, so that the squared error is small, and
	// writes it to dst; lengths are those of Decode. Values are finite, and large
	// ones are as a weight may be. Weight says how much an error of each value
	// matters, none below 0; nil is all the same. Nil if nothing is written in the
	// format.
	Encode func(dst []byte, src, weight []float32)

	// CPU multiplies rows of this format on a CPU. Nil if there is no kernel.
	CPU *CPU

	// GPU reads this format in shaders. Nil if there is no way.
	GPU *GPU
}

// RowBytes returns the bytes of a row of cols values, or an error when cols is
// not a whole number of blocks.
func (f Format) RowBytes(cols int) (int, error) {
	if cols <= 0 || cols%f.BlockElems != 0 {
		return 0, fmt.Errorf("%s: a row of %d values is not a whole number of blocks of %d", f.Name, cols, f.BlockElems)
	}
	return cols / f.BlockElems * f.BlockBytes, nil
}

// Act says in which form a kernel wants its activations.
type Act uint8

const (
	// ActF32 is a plain row of float32, tiled token-minor: for column c of a
	// tile of T tokens, T float32 values follow each other.
	ActF32 Act = iota
	// ActInt8 is the int8 form in blocks of Block values. For each block of a
	// tile of T tokens:
	//
	//	T × 32 int8      the rounded values q, token after token
	//	T × float32 d    the scale
	//	T × float32 ds   d·float32(Σq), rounded once
	//	T × int32   n8   −8·Σq: the start of an accumulator whose weights are offset by 8
	//	T × 2 int16      Σq of values 0..15 and of values 16..31
	//
	// so 48·T bytes a block. mx = max|x|; d = mx·(1/127), q = round-to-even(x·(1/d));
	// mx < 1e-30 gives d = 0 and zeros.
	ActInt8
)

// ActBytes returns the bytes of a tile of tokens rows of cols activations.
func (a Act) ActBytes(tokens, cols int) int {
	if a == ActInt8 {
		return (cols + Block - 1) / Block * 48 * tokens
	}
	return 4 * tokens * cols
}

// TileTokens lists the tile widths that every MatMul accepts, widest first.
var TileTokens = [...]int{12, 8, 4, 1}

// WideTile is the width of the tiles that a MatMul of level AMX accepts besides:
// any number of them, one after the other.
const WideTile = 16

// CPU is how a CPU multiplies a format: a packed layout of groups of Lanes rows
// and kernels over it, which all give the same bits (architecture law 1).
type CPU struct {
	Act Act
	// GroupBytes returns the bytes of one packed group of Lanes rows of cols
	// columns.
	GroupBytes func(cols int) int
	// Pack packs rows rows of cols columns, stored as in the file, into dst,
	// which holds ceil(rows/Lanes) groups. Missing rows of the last group are
	// zero. Rows are independent: callers pack disjoint groups concurrently.
	Pack func(dst, src []byte, rows, cols int)
	// DecodeRow writes the exact values of row r (0 ≤ r < Lanes) of a packed
	// group: an embedding is looked up in the same bytes that the head multiplies.
	DecodeRow func(dst []float32, group []byte, r, cols int)
	// MatMul returns the kernel of an instruction set level, never nil.
	MatMul func(level Level) MatMul
}

// MatMul multiplies groups packed groups of Lanes rows (w) by a tile of T
// tokens (T is one of TileTokens or, at level AMX, any multiple of WideTile): for
// token t, group g and lane r it writes
// out[t*ldo+g*Lanes+r]. The value of a row depends on the row and the token
// alone: never on T, groups, or the level.
type MatMul func(w, tile []byte, out []float32, cols, groups, ldo, T int)

// Level is an instruction set level of the CPU class. All levels give the same bits.
type Level uint8

const (
	Portable Level = iota // plain Go
	AVX2                  // AVX2, FMA and F16C
	AVX512                // AVX-512 F, BW, VL and VNNI
	AMX                   // AVX512, GFNI and the tile unit's products of int8
	NEON                  // NEON with dot products (FEAT_DotProd), on arm64
)

// String returns the level's name as flags and reports spell it.
func (l Level) String() string {
	return [...]string{"portable", "avx2", "avx512", "amx", "neon"}[l]
}
