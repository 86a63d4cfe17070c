package vec

import "github.com/shoal-llm/shoal/pkg/quant"

// Keys is the number of keys in a page.
const Keys = 64

// MaxRows is the number of query rows that may share a page in one call.
const MaxRows = 6

// Hidden is the score of a key that a query does not see, and the running
// maximum of a query that has seen none.
const Hidden = float32(-1e30)

// Row is the online softmax of one query row over its pages (Milakov and
// Gimelshein, "Online normalizer calculation for softmax"). Vector kernels know
// its layout.
type Row struct {
	Max   float32     // largest score so far; Hidden before the first page
	Scale float32     // exp(old maximum − new maximum) of the last page
	First int32       // keys First to Last of the page are seen;
	Last  int32       // none if Last < First
	Sum   [16]float32 // lanes of the sum of exp(score − Max)
}

// Reset makes r ready for the first page of a query.
func (r *Row) Reset() { *r = Row{Max: Hidden} }

// Ops are the operations of one instruction set level. They are safe for
// concurrent use on different rows.
type Ops struct {
	Level quant.Level

	// SumSq returns Σ x² : lane = fma(x, x, lane), then the join of lanes.
	SumSq func(x []float32) float32
	// Norm writes dst = (x·s)·gain, each product rounded.
	Norm func(dst, x, gain []float32, s float32)
	// Add adds y to x.
	Add func(x, y []float32)
	// Exp writes e to the power of x, for −87 ≤ x ≤ 88; beyond, the value at
	// the bound. A NaN stays one. See exp32 for the steps.
	Exp func(dst, x []float32)
	// SiLUMul writes dst = (g / (1 + exp(−g)))·up.
	SiLUMul func(dst, g, up []float32)
	// GELUMul writes dst = (g / (1 + exp(−z)))·up, the tanh form of GELU, with
	// z = g·fma(g·g, 2√(2/π)·0.044715, 2√(2/π)).
	GELUMul func(dst, g, up []float32)

	// Quantize writes x as token t of an int8 tile of T tokens (quant.ActInt8).
	// A last block that x does not fill is padded with zeros. x may have any
	// length. A block that holds a NaN or an infinity gets a d that is not
	// finite, so the products tell.
	Quantize func(tile []byte, x []float32, T, t int)
	// Tile writes x as token t of a float32 tile of T tokens (quant.ActF32).
	// x may have any length.
	Tile func(tile []byte, x []float32, T, t int)

	// Rotate turns the pairs of every head of x, len(x)/dim heads of dim values:
	// pair (a, b) becomes (fma(a, cos, −(b·sin)), fma(b, cos, a·sin)). Pair i is
	// (i, i+pairs) of a head if neox, else (2i, 2i+1); pairs = len(cos) ≤ dim/2,
	// values beyond the pairs stay.
	Rotate func(x []float32, dim int, cos, sin []float32, neox bool)

	// Score writes s[r·Keys+k] = Σ q[r·dim+d]·keys[d·Keys+k], a chain of fma
	// over d ascending that starts at zero, for rows rows (1 to MaxRows) and the
	// first n keys (1 to Keys); what the others get is not specified. dim is a
	// multiple of 8.
	Score func(s, q, keys []float32, rows, dim, n int)
	// Softmax turns the scores of a page into weights, row by row: with
	// x = s·scale, if softCap ≠ 0 then x = softCap·(1 − 2/(exp(2y) + 1)) where
	// y = x/softCap, and x = Hidden for keys not seen:
	//
	//	new = max(Max, all x)
	//	Scale = exp(Max − new);  e = exp(x − new), 0 for keys not seen
	//	Sum = fma(Sum, Scale, e[0:16]) + e[16:32] + e[32:48] + e[48:64]
	//	Max = new
	//
	// and leaves e in s. A page with no key seen changes nothing.
	Softmax func(s []float32, rows []Row, scale, softCap float32)
	// Values updates o[r·dim+d] = o·rows[r].Scale, then a chain of fma of
	// e[r·Keys+k]·values[k·dim+d] over k ascending, the first n keys (1 to Keys).
	// The weights of the others are 0, so they change no more than the sign of a
	// zero, and may take part. dim is a multiple of 8.
	Values func(o, e, values []float32, rows []Row, dim, n int)
	// Halves writes dst from as many little-endian halves.
	Halves func(dst []float32, src []byte)
	// ToHalves writes src as little-endian halves, rounded to nearest even.
	ToHalves func(dst []byte, src []float32)
	// Columns writes whole rows of Keys values from codes of 8 bits: value =
	// code·scale + least of its column, the product exact.
	Columns func(dst []float32, src []byte, scale, least *[Keys]float32)
	// Codes writes dst from codes of bits bits (8, 4, 3 or 2), packed as CodeBlock
	// says: value = code·scale + least, the product exact. Each group values (a
	// multiple of CodeBlock that divides len(dst)) have a scale and a least value,
	// two halves in scales.
	Codes func(dst []float32, src, scales []byte, bits, group int)
	// Finish writes dst = o·(1/S) + 0 where S joins the lanes of row.Sum. The
	// zero makes the sign of zeros independent of keys not seen. len(dst) is a
	// multiple of 8.
	Finish func(dst, o []float32, row *Row)
}

// For returns the operations of a level. Where the build has no vector kernel
// for an operation, it is the portable one. The caller sees to it that the CPU
// has the level (p16.Best).
func For(level quant.Level) *Ops {
	ops := portable()
	ops.Level = level
	accelerate(&ops)
	return &ops
}
