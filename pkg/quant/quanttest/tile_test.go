package quanttest

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
)

func TestTileF32IsTokenMinor(t *testing.T) {
	got := float32s(Tile(quant.ActF32, [][]float32{{1, 2, 3}, {4, 5, 6}}))
	for i, want := range []float32{1, 4, 2, 5, 3, 6} {
		if got[i] != want {
			t.Errorf("value %d is %g, want %g", i, got[i], want)
		}
	}
}

// TestTileInt8 reads the fields of a block of two tokens at the places that the
// contract gives them.
func TestTileInt8(t *testing.T) {
	ramp, tiny := make([]float32, quant.Block), make([]float32, quant.Block)
	for i := range ramp {
		ramp[i] = float32(i - 4)
		tiny[i] = 1e-31
	}
	ramp[31] = -127 // the scale is 1
	tile := Tile(quant.ActInt8, [][]float32{ramp, tiny})
	if want := quant.ActInt8.ActBytes(2, quant.Block); len(tile) != want || want != 96 {
		t.Fatalf("%d bytes, ActBytes says %d", len(tile), want)
	}
	for i := range quant.Block {
		if got := int8(tile[i]); float32(got) != ramp[i] {
			t.Errorf("q[%d] = %d, want %g", i, got, ramp[i])
		}
		if tile[quant.Block+i] != 0 {
			t.Errorf("q[%d] of the token without values is %d", i, tile[quant.Block+i])
		}
	}
	const low, high = 56, 158 // Σq of −4..11, and of 12..26 with −127
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(tile[at:]) }
	for name, c := range map[string]struct{ got, want uint32 }{
		"d":         {u32(64), math.Float32bits(1)},
		"d of 1":    {u32(68), 0},
		"ds":        {u32(72), math.Float32bits(low + high)},
		"ds of 1":   {u32(76), 0},
		"n8":        {u32(80), 1<<32 - 8*(low+high)},
		"n8 of 1":   {u32(84), 0},
		"sums":      {u32(88), low | high<<16},
		"sums of 1": {u32(92), 0},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#08x, want %#08x", name, c.got, c.want)
		}
	}
}
