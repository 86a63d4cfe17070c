package quanttest

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// Levels returns the instruction set levels that this machine can run.
func Levels() []quant.Level { return p16.Levels() }

// testMatMul checks the portable kernel, one row group and one token at a time,
// against the product in float64, and every other way to compute against that.
func testMatMul(t *testing.T, f quant.Format) {
	ref := load(t, f)
	for _, m := range matrices(t, f) {
		x := activations(ref.vector[:m.cols])
		packed := pack(f, m.packed, m.rows, m.cols, 0xAA)
		want := oneByOne(f, packed, x, m.cols)
		for tok := range x {
			checkBounds(t, f, m, x[tok], want[tok])
		}
		for _, level := range Levels() {
			for _, tokens := range quant.TileTokens {
				checkTile(t, f, m, level, packed, x[:tokens], want)
			}
		}
		checkReversed(t, f, m, x[:1], want)
	}
	got := oneByOne(f, pack(f, ref.packed, ref.rows, ref.cols, 0xAA), [][]float32{ref.vector}, ref.cols)[0]
	for r, want := range ref.matvec {
		if diff := math.Abs(float64(got[r] - want)); !(diff <= bound(f, ref.row(r), ref.vector)+activationBound(f, ref.row(r), ref.vector)) {
			t.Errorf("row %d: %g, the reference has %g", r, got[r], want)
		}
	}
}

// oneByOne returns [token][row] of the portable kernel, a group and a token at a
// time.
func oneByOne(f quant.Format, packed []byte, x [][]float32, cols int) [][]float32 {
	groupBytes := f.CPU.GroupBytes(cols)
	groups := len(packed) / groupBytes
	kernel := f.CPU.MatMul(quant.Portable)
	out := make([][]float32, len(x))
	for tok := range x {
		out[tok] = make([]float32, groups*quant.Lanes)
		tile := Tile(f.CPU.Act, x[tok:tok+1])
		for g := range groups {
			kernel(packed[g*groupBytes:][:groupBytes], tile, out[tok][g*quant.Lanes:], cols, 1, quant.Lanes, 1)
		}
	}
	return out
}

// checkBounds compares with the float64 product of the weights and of the
// activations as their form holds them.
func checkBounds(t *testing.T, f quant.Format, m matrix, x, got []float32) {
	t.Helper()
	held := x
	if f.CPU.Act == quant.ActInt8 {
		held = int8Values(x)
	}
	for r := range m.rows {
		want := dot(m.row(r), held)
		if diff := math.Abs(float64(got[r]) - want); !(diff <= bound(f, m.row(r), held)) {
			t.Fatalf("%s row %d of %d columns: %g, want %g ± %g", m.name, r, m.cols, got[r], want, bound(f, m.row(r), held))
		}
	}
	for r := m.rows; r < len(got); r++ {
		if got[r] != 0 {
			t.Fatalf("%s: missing row %d gives %g", m.name, r, got[r])
		}
	}
}

// bound is the rounding error that a chain of float32 operations may make. A
// block's terms may be computed from parts as large as its largest weight.
func bound(f quant.Format, w, x []float32) float64 {
	var sum float64
	for at := 0; at < len(w); at += f.BlockElems {
		var largest, weight float64
		for i := at; i < at+f.BlockElems; i++ {
			largest = max(largest, math.Abs(float64(w[i])))
			weight += math.Abs(float64(x[i]))
		}
		sum += largest * weight
	}
	return float64(len(w)+16)*0x1p-23*sum + 1e-35
}

// activationBound is what rounding the activations to their form may change: a
// half step each.
func activationBound(f quant.Format, w, x []float32) float64 {
	if f.CPU.Act != quant.ActInt8 {
		return 0
	}
	var sum float64
	for at := 0; at < len(w); at += quant.Block {
		var largest, weight float64
		for i := at; i < at+quant.Block; i++ {
			largest = max(largest, math.Abs(float64(x[i])))
			weight += math.Abs(float64(w[i]))
		}
		sum += weight * largest / 254
	}
	return sum * 1.0001
}

// checkTile runs all groups of a tile at once and in two calls, and looks that
// nothing beside the result is written.
func checkTile(t *testing.T, f quant.Format, m matrix, level quant.Level, packed []byte, x, want [][]float32) {
	t.Helper()
	groupBytes := f.CPU.GroupBytes(m.cols)
	groups := len(packed) / groupBytes
	tile := Tile(f.CPU.Act, x)
	kernel := f.CPU.MatMul(level)
	ldo := groups*quant.Lanes + 5
	for _, first := range []int{groups, 1} {
		out := make([]float32, len(x)*ldo)
		for i := range out {
			out[i] = -12345
		}
		kernel(packed[:first*groupBytes], tile, out, m.cols, first, ldo, len(x))
		if first < groups {
			kernel(packed[first*groupBytes:], tile, out[first*quant.Lanes:], m.cols, groups-first, ldo, len(x))
		}
		for tok := range x {
			row := out[tok*ldo:][:ldo]
			if r, ok := firstDifference(row[:groups*quant.Lanes], want[tok]); !ok {
				t.Fatalf("%s, %d columns, %s, tile of %d, %d groups: token %d row %d: %g, alone and portable %g",
					m.name, m.cols, level, len(x), first, tok, r, row[r], want[tok][r])
			}
			for _, v := range row[groups*quant.Lanes:] {
				if v != -12345 {
					t.Fatalf("%s, tile of %d: wrote beside the result of token %d", level, len(x), tok)
				}
			}
		}
	}
}

// checkReversed packs the rows in reverse: a row's value does not depend on its
// lane.
func checkReversed(t *testing.T, f quant.Format, m matrix, x, want [][]float32) {
	t.Helper()
	rowBytes := m.cols / f.BlockElems * f.BlockBytes
	var reversed []byte
	for r := m.rows - 1; r >= 0; r-- {
		reversed = append(reversed, m.packed[r*rowBytes:(r+1)*rowBytes]...)
	}
	got := oneByOne(f, pack(f, reversed, m.rows, m.cols, 0xAA), x, m.cols)
	for r := range m.rows {
		if a, b := got[0][m.rows-1-r], want[0][r]; math.Float32bits(a) != math.Float32bits(b) {
			t.Fatalf("%s row %d: %g in one lane, %g in another", m.name, r, b, a)
		}
	}
}

// activations returns one row of activations a token of the widest tile: the
// vector itself, noise at several scales, and rows with zero, tiny, constant and
// lone large values.
func activations(vector []float32) [][]float32 {
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([][]float32, quant.TileTokens[0])
	for tok := range x {
		x[tok] = make([]float32, len(vector))
		for i := range x[tok] {
			x[tok][i] = float32(rng.NormFloat64()) * float32(math.Pow(10, float64(tok%5-2)))
		}
	}
	x[0] = vector
	for i := range vector {
		x[3][i] = 0
		x[4][i] *= 1e-33
		x[5][i] = -0.5
		if i/quant.Block%2 == 0 {
			x[6][i] = 0
		}
	}
	x[7][1] = 23316
	return x
}
