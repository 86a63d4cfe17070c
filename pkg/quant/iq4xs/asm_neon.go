//go:build ignore

// Generates the NEON kernels of IQ4_XS.
package main

import (
	"github.com/shoal-llm/shoal/internal/neongen"
	"github.com/shoal-llm/shoal/pkg/quant/codebook"
)

// scalesAt is the offset of the scales in a packed block, as in cpu.go.
const scalesAt = 256

func main() {
	neongen.Int8{
		Name: "IQ4_XS", Block: 272, Super: 8, Head: 32,
		Dot: neongen.Codebook(codebook.IQ4()),
		Factor: func(b *neongen.Block, factor neongen.V, quarter int) {
			b.Signed(factor, scalesAt+4*quarter)
		},
	}.Generate()
}
