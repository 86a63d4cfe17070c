package kquant

import (
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// head is d = 1, dmin = 0.5, scales 1..8 · 7 and minimums 63 down by 8, with the
// codes written out bit by bit.
var head = []byte{
	0x00, 0x3c, 0x00, 0x38,
	7 | 2<<6, 14 | 2<<6, 21 | 3<<6, 28 | 3<<6, // 35 = 0x23, 42 = 0x2a, 49 = 0x31, 56 = 0x38
	63 | 1<<6, 55 | 1<<6, 47 | 0<<6, 39 | 0<<6, // 31 = 0x1f, 23 = 0x17, 15 = 0x0f, 7 = 0x07
	0xf3, 0x7a, 0xf1, 0x78,
}

func TestReadHead(t *testing.T) {
	h := ReadHead(head)
	for i := range Blocks {
		scale, minimum := h.Block(i)
		if want := float32(7 * (i + 1)); scale != want {
			t.Errorf("scale %d is %g, want %g", i, scale, want)
		}
		if want := float32(63-8*i) / 2; minimum != want {
			t.Errorf("minimum %d is %g, want %g", i, minimum, want)
		}
	}
}

func TestPackedHeadReadsBack(t *testing.T) {
	h := ReadHead(head)
	for r := range quant.Lanes {
		packed := make([]byte, HeadBytes)
		LayHead(packed, head, r)
		for i := range Blocks {
			scale, minimum := h.Block(i)
			var lane, other p16.Lane
			TakeScales(&lane, packed, i, r)
			if lane.D != scale || lane.M != -minimum {
				t.Errorf("block %d, lane %d: %g and %g, want %g and %g", i, r, lane.D, lane.M, scale, -minimum)
			}
			if TakeScales(&other, packed, i, (r+1)%quant.Lanes); other.D != 0 || other.M != 0 {
				t.Errorf("block %d: lane %d also wrote to the next one", i, r)
			}
		}
	}
}

func TestNibbles(t *testing.T) {
	src := make([]byte, Elems/2)
	value := func(block, j int) byte { return byte(5*block+3*j+j/16) & 15 }
	for block := range Blocks {
		for j := range quant.Block {
			src[block/2*quant.Block+j] |= value(block, j) << (block % 2 * 4)
		}
	}
	for block := range Blocks {
		for j, b := range Nibbles(src, block) {
			if want := value(block, j) | value(block, j+16)<<4; b != want {
				t.Errorf("block %d byte %d is %#02x, want %#02x", block, j, b, want)
			}
		}
	}
}
