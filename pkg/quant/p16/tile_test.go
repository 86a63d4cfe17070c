package p16

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
)

func TestQuantizeTileByHand(t *testing.T) {
	x := make([]float32, 32)
	for i := range x {
		x[i] = float32(i) - 4 // −4..27
	}
	tile := make([]byte, quant.ActInt8.ActBytes(1, 32))
	QuantizeTile(tile, x, 1, 0)
	// d = 27/127; q = round(x·127/27): the 16 lower ones from −19 to 52.
	want := []int8{-19, -14, -9, -5, 0, 5, 9, 14, 19, 24, 28, 33, 38, 42, 47, 52,
		56, 61, 66, 71, 75, 80, 85, 89, 94, 99, 103, 108, 113, 118, 122, 127}
	var sums [2]int32
	for i, q := range want {
		if got := int8(tile[i]); got != q {
			t.Errorf("value %d: %d, want %d", i, got, q)
		}
		sums[i/16] += int32(q)
	}
	d := float32(27) * float32(1.0/127.0)
	fields := []uint32{
		math.Float32bits(d),
		math.Float32bits(d * float32(sums[0]+sums[1])),
		uint32(-8 * (sums[0] + sums[1])),
		uint32(sums[0]) | uint32(sums[1])<<16,
	}
	for i, want := range fields {
		if got := binary.LittleEndian.Uint32(tile[32+4*i:]); got != want {
			t.Errorf("field %d: %#08x, want %#08x", i, got, want)
		}
	}
}

// A half rounds to the even neighbour: with 127 in the block the step is 1.
func TestQuantizeTileRoundsHalfToEven(t *testing.T) {
	x := []float32{127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127}
	want := []int8{127, 0, 2, 2, 0, -2, -2, -127}
	tile := make([]byte, quant.ActInt8.ActBytes(1, 32))
	QuantizeTile(tile, x, 1, 0)
	for i, q := range want {
		if got := int8(tile[i]); got != q {
			t.Errorf("%g: %d, want %d", x[i], got, q)
		}
	}
}

// The token's bytes are the same in every tile, and nothing else is written.
func TestQuantizeTileIsIndependentOfTheTile(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, cols := range []int{32, 96, 100} {
		x := noise(rng, cols)
		blocks := (cols + 31) / 32
		alone := make([]byte, quant.ActInt8.ActBytes(1, cols))
		QuantizeTile(alone, x, 1, 0)
		for _, T := range quant.TileTokens {
			for token := range T {
				tile := bytes.Repeat([]byte{0x5a}, quant.ActInt8.ActBytes(T, cols))
				QuantizeTile(tile, x, T, token)
				foreign := bytes.Count(tile, []byte{0x5a})
				if foreign < 48*blocks*(T-1) {
					t.Fatalf("tile of %d: %d bytes left alone", T, foreign)
				}
				for i := range blocks {
					got, want := int8Block(tile, T, i), int8Block(alone, 1, i)
					if !bytes.Equal(got.q(token), want.q(0)) || !slices.Equal(got.fields(token), want.fields(0)) {
						t.Fatalf("tile of %d, token %d, block %d of %d columns differs from the token alone", T, token, i, cols)
					}
				}
			}
		}
	}
}

func (b tileBlock) fields(t int) []uint32 {
	var f []uint32
	for at := 32; at < 48; at += 4 {
		f = append(f, binary.LittleEndian.Uint32(b.data[at*b.T+4*t:]))
	}
	return f
}

func TestQuantizeTileErrorAndRange(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 500 {
		x := noise(rng, 32)
		for i := range x {
			x[i] *= float32(math.Ldexp(1, rng.IntN(8)))
		}
		scale := float32(math.Ldexp(1, rng.IntN(200)-80))
		for i := range x {
			x[i] *= scale
		}
		tile := make([]byte, quant.ActInt8.ActBytes(1, 32))
		QuantizeTile(tile, x, 1, 0)
		d, _ := int8Block(tile, 1, 0).scale(0)
		for i, v := range x {
			q := int8(tile[i])
			if q == -128 {
				t.Fatalf("%g became −128", v)
			}
			if diff := math.Abs(float64(v) - float64(d)*float64(q)); diff > 0.50001*float64(d) {
				t.Fatalf("%g became %d steps of %g", v, q, d)
			}
		}
	}
}

func TestQuantizeTileTinyBlocksAreZero(t *testing.T) {
	tile := bytes.Repeat([]byte{0xff}, quant.ActInt8.ActBytes(1, 64))
	x := make([]float32, 64)
	x[3], x[40] = 0.999e-30, 1.001e-30
	QuantizeTile(tile, x, 1, 0)
	if !bytes.Equal(tile[:48], make([]byte, 48)) {
		t.Errorf("a block below 1e-30 is %x", tile[:48])
	}
	if q := int8(tile[48+8]); q != 127 {
		t.Errorf("a block above 1e-30 has %d, want 127", q)
	}
}

// A row that is not finite stays so: its error must not vanish in an integer.
func TestQuantizeTileKeepsNaN(t *testing.T) {
	tile := make([]byte, quant.ActInt8.ActBytes(1, 32))
	QuantizeTile(tile, []float32{1, float32(math.NaN()), 2}, 1, 0)
	if d, _ := int8Block(tile, 1, 0).scale(0); d == d {
		t.Errorf("the scale of a block with NaN is %g", d)
	}
}

func TestPackF32Tile(t *testing.T) {
	tile := make([]byte, quant.ActF32.ActBytes(4, 3))
	for token := range 4 {
		x := []float32{float32(token), float32(10 + token), float32(20 + token)}
		PackF32Tile(tile, x, 4, token)
	}
	for i, want := range []float32{0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23} {
		if got := math.Float32frombits(binary.LittleEndian.Uint32(tile[4*i:])); got != want {
			t.Errorf("value %d is %g, want %g", i, got, want)
		}
	}
}

func noise(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}
