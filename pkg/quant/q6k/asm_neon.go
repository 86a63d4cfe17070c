//go:build ignore

// Generates the NEON kernels of Q6_K.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

// Offsets in a packed block (cpu.go).
const (
	highAt   = 256
	scalesAt = 384
)

func main() {
	neongen.Int8{Name: "Q6_K", Block: 416, Super: 8, Head: 32, Quarters: 1, Dot: dot}.Generate()
}

// dot sums the values of each sub-block of 16 columns by itself, then their
// products with the sub-blocks' scales.
func dot(a *neongen.Asm) func(*neongen.Block) {
	nibble, pair, offset := a.Vec(), a.Vec(), a.Vec()
	a.MOVIBytes(nibble, 0x0f)
	a.MOVIBytes(pair, 0x30)
	a.MOVIBytes(offset, 32)
	return func(b *neongen.Block) {
		second := b.Vecs(len(b.Sum)) // of columns 16..31
		b.Start(b.Sum)
		b.Start(second)
		q, high, x := b.Vec(), b.Vec(), b.Vec()
		for g := range 4 {
			for _, quarter := range b.Quarters() {
				b.Weights(q, 64*g+16*quarter)
				b.Weights(high, highAt+64*(g/2)+16*quarter)
				b.AND(x, q, nibble)
				withPair(b, x, high, g, 0, pair, offset)
				b.Add(b.Sum, x, quarter, 4*g)
				b.USHRBytes(x, q, 4)
				withPair(b, x, high, g, 1, pair, offset)
				b.Add(second, x, quarter, 16+4*g)
			}
		}
		scale(b, second, q, high)
	}
}

// withPair puts the high bits of sub-block sub above the nibbles x and takes the
// offset off. high holds four pairs a byte; q stays in the other registers.
func withPair(b *neongen.Block, x, high neongen.V, g, sub int, pair, offset neongen.V) {
	b.Scope(func() {
		t := b.Vec()
		switch {
		case g%2 == 0 && sub == 0:
			b.AND(t, high, pair)
		case g%2 == 0:
			b.USHRBytes(t, high, 2)
			b.AND(t, t, pair)
		case sub == 0:
			b.SHLBytes(t, high, 4)
			b.AND(t, t, pair)
		default:
			b.SHLBytes(t, high, 2)
			b.AND(t, t, pair)
		}
		b.ORR(x, x, t)
		b.SUBBytes(x, x, offset)
	})
}

// scale leaves s0·Sum + s1·second in Sum, with the registers s0 and s1.
func scale(b *neongen.Block, second []neongen.V, s0, s1 neongen.V) {
	for _, quarter := range b.Quarters() {
		b.Weights8(s1, scalesAt+8*quarter)
		b.SXTL(s1, s1) // int16 pairs s0, s1
		b.SplitPairs(s0, s1)
		for i, c := range b.Cells {
			if c.Quarter == quarter {
				b.MUL(b.Sum[i], b.Sum[i], s0)
				b.MLA(b.Sum[i], second[i], s1)
			}
		}
	}
}
