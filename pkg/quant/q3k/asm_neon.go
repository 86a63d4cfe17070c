//go:build ignore

// Generates the NEON kernels of Q3_K.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

// scalesAt is the offset of the scales in a packed block, as in cpu.go.
const scalesAt = 192

func main() {
	halves := neongen.Halves{Unpack: unpack, Scales: scales}
	neongen.Int8{Name: "Q3_K", Block: 224, Super: 8, Head: 32, Quarters: 1, Dot: halves.Dot}.Generate()
}

// unpack takes three bits and the offset of 4 off. Columns c..c+3 lie whole in a
// vector, or as a low pair above bit 6 of one and a high bit of the third
// (layValues in cpu.go).
func unpack(a *neongen.Asm) func(b *neongen.Block, q neongen.V, quarter, c int) {
	triple, four := a.Vec(), a.Vec()
	a.MOVIBytes(triple, 7)
	a.MOVIBytes(four, 4)
	var vectors []neongen.V
	return func(b *neongen.Block, q neongen.V, quarter, c int) {
		if c == 0 {
			vectors = b.Vecs(3)
			for i, v := range vectors {
				b.Weights(v, 64*i+16*quarter)
			}
		}
		whole := func(vector int) {
			if c%8 == 0 {
				b.AND(q, vectors[vector], triple)
				return
			}
			b.USHRBytes(q, vectors[vector], 3)
			b.AND(q, q, triple)
		}
		split := func(vector, high int) {
			b.USHRBytes(q, vectors[vector], 6)
			b.Scope(func() {
				t := b.Vec()
				b.USHRBytes(t, vectors[2], high)
				b.BIT(q, t, four)
			})
		}
		switch c {
		case 0, 4:
			whole(2)
		case 8:
			split(0, 4)
		case 12:
			split(1, 5)
		case 16, 20:
			whole(0)
		case 24, 28:
			whole(1)
		}
		b.SUBBytes(q, q, four)
	}
}

func scales(*neongen.Asm) func(b *neongen.Block, pairs neongen.V, quarter int) {
	return func(b *neongen.Block, pairs neongen.V, quarter int) {
		b.Weights8(pairs, scalesAt+8*quarter)
		b.SXTL(pairs, pairs)
	}
}
