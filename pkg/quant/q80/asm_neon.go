//go:build ignore

// Generates the NEON kernels of Q8_0.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

func main() {
	neongen.Int8{Name: "Q8_0", Block: 544, Scales: 512, Dot: dot}.Generate()
}

// dot takes the weights' offset of 128 back, which makes them signed.
func dot(a *neongen.Asm) func(*neongen.Block) {
	offset := a.Vec()
	a.MOVIBytes(offset, 0x80)
	return func(b *neongen.Block) {
		b.Start(b.Sum)
		dots := b.Dots()
		w := b.Vec()
		for g := 0; g < 8; g += 2 {
			for _, quarter := range b.Quarters() {
				for _, column := range []int{g, g + 1} {
					b.Weights(w, 64*column+16*quarter)
					b.EOR(w, w, offset)
					dots.Add(w, quarter, 4*column)
				}
			}
		}
		dots.Join()
	}
}
