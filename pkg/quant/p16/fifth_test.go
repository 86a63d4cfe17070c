package p16

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// One bit at a time: the fifth bit of a column lies where the kernels look.
func TestLayFifths(t *testing.T) {
	for c := range quant.Block {
		for r := range quant.Lanes {
			packed := make([]byte, Fifths)
			LayFifths(packed, 1<<c, r)
			want := make([]byte, Fifths)
			want[4*r+c%4] = 1 << (c%16/4 + 4*(1-c/16))
			if string(packed) != string(want) {
				t.Fatalf("column %d of lane %d is laid as %x, want %x", c, r, packed, want)
			}
		}
	}
}

func TestFifthsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		packed := rapid.SliceOfN(rapid.Byte(), Fifths, Fifths).Draw(t, "packed")
		bits := rapid.Uint32().Draw(t, "bits")
		r := rapid.IntRange(0, quant.Lanes-1).Draw(t, "lane")
		LayFifths(packed, bits, r)
		if got := TakeFifths(packed, r); got != bits {
			t.Fatalf("%#08x comes back as %#08x", bits, got)
		}
	})
}
