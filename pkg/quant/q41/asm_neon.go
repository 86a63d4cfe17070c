//go:build ignore

// Generates the NEON kernels of Q4_1.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

func main() {
	neongen.Int8{Name: "Q4_1", Block: 320, Scales: 256, Min: true, Dot: neongen.Nibbles(false)}.Generate()
}
