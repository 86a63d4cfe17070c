package p16_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// TestLevelsGiveTheSameBits compares every level, tile width and grouping with
// the portable kernel on weights and activations at the ends of their ranges.
func TestLevelsGiveTheSameBits(t *testing.T) {
	for _, f := range formats.All() {
		t.Run(f.Name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(9, uint64(f.GGML)))
			for _, shape := range [][2]int{{1, 256}, {16, 512}, {37, 256}, {83, 1536}, {150, 256}, {20, 4096}} {
				rows, cols := shape[0], shape[1]
				for _, pattern := range patterns {
					packed := packWeights(f, rng, pattern.fill, rows, cols)
					compareLevels(t, f, packed, activations(rng, cols), pattern.name, rows, cols)
				}
			}
		})
	}
}

// patterns fill the bytes of a block; what they make of the scales is repaired
// where it is not finite.
var patterns = []struct {
	name string
	fill func(rng *rand.Rand, block []byte)
}{
	{"random", func(rng *rand.Rand, b []byte) {
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
	}},
	{"ones", fillWith(0xff)},
	{"lowest", fillWith(0x80)},
	{"highest", fillWith(0x7f)},
	{"zero", fillWith(0)},
	{"ends", func(rng *rand.Rand, b []byte) {
		for i := range b {
			b[i] = []byte{0x00, 0x7f, 0x80, 0xff, 0x0f, 0xf0}[rng.IntN(6)]
		}
	}},
}

func fillWith(v byte) func(*rand.Rand, []byte) {
	return func(_ *rand.Rand, b []byte) {
		for i := range b {
			b[i] = v
		}
	}
}

func packWeights(f quant.Format, rng *rand.Rand, fill func(*rand.Rand, []byte), rows, cols int) []byte {
	src := make([]byte, rows*cols/f.BlockElems*f.BlockBytes)
	for b := src; len(b) > 0; b = b[f.BlockBytes:] {
		fill(rng, b[:f.BlockBytes])
		makeFinite(f, b[:f.BlockBytes])
	}
	packed := bytes.Repeat([]byte{0xa5}, p16.Groups(rows)*f.CPU.GroupBytes(cols))
	f.CPU.Pack(packed, src, rows, cols)
	return packed
}

// makeFinite clears pairs of bytes, the first and the last ones first, until all
// values of a block are finite: scales lie at its ends.
func makeFinite(f quant.Format, block []byte) {
	for i := 0; !finite(f, block); i += 2 {
		copy(block[i:], []byte{0x02, 0x20}) // about 2⁻⁷ as binary16
		if !finite(f, block) {
			copy(block[len(block)-2-i:], []byte{0x02, 0x20})
		}
	}
}

func finite(f quant.Format, block []byte) bool {
	values := make([]float32, f.BlockElems)
	f.Decode(values, block)
	for _, v := range values {
		if math.IsNaN(float64(v)) || math.Abs(float64(v)) > 1e20 {
			return false
		}
	}
	return true
}

// activations returns a row for each token of the widest tile.
func activations(rng *rand.Rand, cols int) [][]float32 {
	x := make([][]float32, quant.TileTokens[0])
	for token := range x {
		x[token] = make([]float32, cols)
		for c := range x[token] {
			x[token][c] = activation(rng, token, c)
		}
	}
	return x
}

func activation(rng *rand.Rand, token, c int) float32 {
	noise := float32(rng.NormFloat64())
	switch token {
	case 0:
		return 1 // all 127
	case 1:
		return -1 // all −127
	case 2:
		return float32(1 - 2*(c%2))
	case 3:
		return 0
	case 4:
		return noise * 1e-29 // scales and products below the normal range
	case 5:
		return noise * 1e-30 // some blocks vanish
	case 6:
		return noise * 23316
	case 7:
		return float32(1 - 2*(c/16%2)) // the two halves cancel
	}
	return noise
}

func makeTile(act quant.Act, x [][]float32) []byte {
	tile := make([]byte, act.ActBytes(len(x), len(x[0])))
	for t := range x {
		if act == quant.ActInt8 {
			p16.QuantizeTile(tile, x[t], len(x), t)
		} else {
			p16.PackF32Tile(tile, x[t], len(x), t)
		}
	}
	return tile
}

func compareLevels(t *testing.T, f quant.Format, packed []byte, x [][]float32, pattern string, rows, cols int) {
	t.Helper()
	groups := p16.Groups(rows)
	ldo := groups*quant.Lanes + 3
	want := make([]float32, len(x)*ldo)
	f.CPU.MatMul(quant.Portable)(packed, makeTile(f.CPU.Act, x), want, cols, groups, ldo, len(x))
	for _, level := range p16.Levels() {
		kernel := f.CPU.MatMul(level)
		for _, T := range quant.TileTokens {
			if level == quant.Portable && rows*cols > 20_000 {
				continue
			}
			for first := 0; first+T <= len(x); first += T {
				out := make([]float32, T*ldo)
				kernel(packed, makeTile(f.CPU.Act, x[first:first+T]), out, cols, groups, ldo, T)
				if i := differs(out, want[first*ldo:][:T*ldo]); i >= 0 {
					t.Fatalf("%s: %d×%d, %s, tile of %d: token %d row %d: %g, portable %g", pattern,
						rows, cols, level, T, first+i/ldo, i%ldo, out[i], want[first*ldo+i])
				}
			}
		}
	}
}

// differs returns the first place where the bits differ, or −1.
func differs(a, b []float32) int {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return i
		}
	}
	return -1
}

// A kernel must refuse slices that it would run past.
func TestKernelsCheckTheirSlices(t *testing.T) {
	const cols = 256
	for _, f := range formats.All() {
		w := make([]byte, f.CPU.GroupBytes(cols))
		tile := make([]byte, f.CPU.Act.ActBytes(4, cols))
		out := make([]float32, 4*quant.Lanes)
		for _, level := range p16.Levels() {
			kernel := f.CPU.MatMul(level)
			kernel(w, tile, out, cols, 1, quant.Lanes, 4)
			kernel(nil, tile, nil, cols, 0, quant.Lanes, 4)
			for name, call := range map[string]func(){
				"weights":     func() { kernel(w[1:], tile, out, cols, 1, quant.Lanes, 4) },
				"activations": func() { kernel(w, tile[1:], out, cols, 1, quant.Lanes, 4) },
				"outputs":     func() { kernel(w, tile, out[1:], cols, 1, quant.Lanes, 4) },
				"width":       func() { kernel(w, tile, out, cols, 1, quant.Lanes, 3) },
				"columns":     func() { kernel(w, tile, out, 0, 1, quant.Lanes, 4) },
			} {
				if !panics(call) {
					t.Errorf("%s, %s: short %s pass", f.Name, level, name)
				}
			}
		}
	}
}

func panics(call func()) (did bool) {
	defer func() { did = recover() != nil }()
	call()
	return false
}

// Packed weights take the bytes of the file, give or take 2 percent, or 4 for
// K-quants, whose scales may be widened.
func TestPackedSize(t *testing.T) {
	for _, f := range formats.All() {
		for _, cols := range []int{256, 1536, 4096} {
			row, err := f.RowBytes(cols)
			if err != nil {
				t.Fatal(err)
			}
			percent := 2
			if strings.HasSuffix(f.Name, "_K") {
				percent = 4
			}
			if got, limit := f.CPU.GroupBytes(cols), row*quant.Lanes*(100+percent)/100; got > limit {
				t.Errorf("%s: a group of %d columns takes %d bytes, %d in the file", f.Name, cols, got, row*quant.Lanes)
			}
		}
	}
}

func ExampleLevels() {
	fmt.Println(p16.Levels()[0])
	// Output: portable
}

func TestBestIsTheLastLevel(t *testing.T) {
	levels := p16.Levels()
	if got := p16.Best(); got != levels[len(levels)-1] {
		t.Errorf("the best of %v is %v", levels, got)
	}
}
