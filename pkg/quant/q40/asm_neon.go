//go:build ignore

// Generates the NEON kernels of Q4_0.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

func main() {
	neongen.Int8{Name: "Q4_0", Block: 288, Scales: 256, Dot: neongen.Nibbles(true)}.Generate()
}
