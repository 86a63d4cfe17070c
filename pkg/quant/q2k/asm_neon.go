//go:build ignore

// Generates the NEON kernels of Q2_K.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

// codesAt is the offset of scales and minimums in a packed block, as in cpu.go.
const codesAt = 128

func main() {
	halves := neongen.Halves{Unpack: unpack, Scales: scales}
	neongen.Int8{
		Name: "Q2_K", Block: 160, Super: 8, Head: 64, Quarters: 1,
		Dot: halves.Dot, SubMins: mins,
	}.Generate()
}

// unpack takes pairs of bits: 16 columns lie in one vector.
func unpack(a *neongen.Asm) func(b *neongen.Block, q neongen.V, quarter, c int) {
	pair := a.Vec()
	a.MOVIBytes(pair, 3)
	var all neongen.V
	return func(b *neongen.Block, q neongen.V, quarter, c int) {
		if c == 0 {
			all = b.Vec()
		}
		if c%16 == 0 {
			b.Weights(all, 4*c+16*quarter)
			b.AND(q, all, pair)
			return
		}
		b.USHRBytes(q, all, c%16/2)
		b.AND(q, q, pair)
	}
}

// scales takes the low nibbles of the codes.
func scales(a *neongen.Asm) func(b *neongen.Block, pairs neongen.V, quarter int) {
	nibble := a.Vec()
	a.MOVIBytes(nibble, 0x0f)
	return func(b *neongen.Block, pairs neongen.V, quarter int) {
		b.Weights8(pairs, codesAt+8*quarter)
		b.AND(pairs, pairs, nibble)
		b.UXTL(pairs, pairs)
	}
}

// mins takes the high nibbles of the codes.
func mins(b *neongen.Block, low, high neongen.V, quarter int) {
	b.Weights8(high, codesAt+8*quarter)
	b.USHRBytes(high, high, 4)
	b.UXTL(high, high)
	b.SplitPairs(low, high)
}
