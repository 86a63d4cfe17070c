//go:build ignore

// Generates the NEON kernels of IQ4_NL.
package main

import (
	"github.com/shoal-llm/shoal/internal/neongen"
	"github.com/shoal-llm/shoal/pkg/quant/codebook"
)

func main() {
	neongen.Int8{Name: "IQ4_NL", Block: 288, Scales: 256, Dot: neongen.Codebook(codebook.IQ4())}.Generate()
}
