package p16_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// unwritten marks outputs that a kernel must leave alone.
const unwritten = -12345

// TestWideTilesGiveTheSameBits compares runs of wide tiles at level AMX with the
// portable kernel, over whole and partial chunks of columns and odd numbers of
// blocks, and looks that nothing beside the result is written.
func TestWideTilesGiveTheSameBits(t *testing.T) {
	if !slices.Contains(p16.Levels(), quant.AMX) {
		t.Skip("this machine has no AMX")
	}
	for _, f := range formats.All() {
		t.Run(f.Name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(11, uint64(f.GGML)))
			for _, shape := range [][2]int{{1, 32}, {16, 96}, {37, 256}, {20, 1056}, {5, 1536}, {33, 2304}} {
				rows, cols := shape[0], shape[1]
				if cols%f.BlockElems != 0 {
					continue
				}
				some := patterns
				if rows*cols > 10_000 { // for the reference is slow
					some = patterns[:1]
				}
				for _, pattern := range some {
					packed := packWeights(f, rng, pattern.fill, rows, cols)
					compareWide(t, f, packed, rng, pattern.name, rows, cols)
				}
			}
		})
	}
}

func compareWide(t *testing.T, f quant.Format, packed []byte, rng *rand.Rand, pattern string, rows, cols int) {
	t.Helper()
	var x [][]float32
	for len(x) < 3*quant.WideTile {
		x = append(x, activations(rng, cols)...)
	}
	groups := p16.Groups(rows)
	width := groups * quant.Lanes
	want := make([]float32, len(x)*width)
	narrow := quant.TileTokens[0]
	for first := 0; first < len(x); first += narrow {
		f.CPU.MatMul(quant.Portable)(packed, makeTile(f.CPU.Act, x[first:first+narrow]), want[first*width:], cols, groups, width, narrow)
	}
	ldo := width + 3
	for _, T := range []int{quant.WideTile, 3 * quant.WideTile} {
		for _, first := range []int{0, len(x) - T} {
			out := slices.Repeat([]float32{unwritten}, T*ldo)
			f.CPU.MatMul(quant.AMX)(packed, wideTiles(f.CPU.Act, x[first:first+T]), out, cols, groups, ldo, T)
			for tok := range T {
				row := out[tok*ldo:][:ldo]
				if i := differs(row[:width], want[(first+tok)*width:][:width]); i >= 0 {
					t.Fatalf("%s: %d×%d, %d wide tokens: token %d row %d: %g, portable %g", pattern,
						rows, cols, T, first+tok, i, row[i], want[(first+tok)*width+i])
				}
				if i := slices.IndexFunc(row[width:], func(v float32) bool { return v != unwritten }); i >= 0 {
					t.Fatalf("%s: %d×%d, %d wide tokens: wrote %g behind token %d", pattern, rows, cols, T, row[width+i], tok)
				}
			}
		}
	}
}

// wideTiles returns wide tiles of activations, one after the other.
func wideTiles(act quant.Act, x [][]float32) (tiles []byte) {
	for part := range slices.Chunk(x, quant.WideTile) {
		tiles = append(tiles, makeTile(act, part)...)
	}
	return tiles
}

// A wide kernel must refuse slices that it would run past, and narrow levels must
// refuse wide tiles.
func TestWideKernelsCheckTheirSlices(t *testing.T) {
	if !slices.Contains(p16.Levels(), quant.AMX) {
		t.Skip("this machine has no AMX")
	}
	const cols, T = 256, 2 * quant.WideTile
	for _, f := range formats.All() {
		w := make([]byte, f.CPU.GroupBytes(cols))
		tile := make([]byte, f.CPU.Act.ActBytes(T, cols))
		out := make([]float32, T*quant.Lanes)
		kernel := f.CPU.MatMul(quant.AMX)
		kernel(w, tile, out, cols, 1, quant.Lanes, T)
		kernel(nil, tile, nil, cols, 0, quant.Lanes, T)
		for name, call := range map[string]func(){
			"weights":     func() { kernel(w[1:], tile, out, cols, 1, quant.Lanes, T) },
			"activations": func() { kernel(w, tile[1:], out, cols, 1, quant.Lanes, T) },
			"outputs":     func() { kernel(w, tile, out[1:], cols, 1, quant.Lanes, T) },
			"width":       func() { kernel(w, tile, out, cols, 1, quant.Lanes, quant.WideTile+1) },
			"no tokens":   func() { kernel(w, tile, out, cols, 1, quant.Lanes, 0) },
			"level":       func() { f.CPU.MatMul(quant.AVX512)(w, tile, out, cols, 1, quant.Lanes, T) },
		} {
			if !panics(call) {
				t.Errorf("%s: wrong %s pass", f.Name, name)
			}
		}
	}
}

// BenchmarkWideMatMul times runs of wide tiles beside a narrow one (GOP/s, a
// multiply-add being two operations), on one core.
func BenchmarkWideMatMul(b *testing.B) {
	const rows = 224
	for _, f := range formats.All() {
		for _, cols := range []int{768, 1536} {
			for _, level := range p16.Levels() {
				for _, T := range []int{quant.TileTokens[0], quant.WideTile, 4 * quant.WideTile, 8 * quant.WideTile} {
					if wide := T%quant.WideTile == 0; level < quant.AVX512 || wide && level != quant.AMX || !wide && level == quant.AMX {
						continue
					}
					b.Run(fmt.Sprintf("%s/%d/%s/T%d", f.Name, cols, level, T), func(b *testing.B) {
						benchmarkMatMul(b, f, level, rows, cols, T)
					})
				}
			}
		}
	}
}
