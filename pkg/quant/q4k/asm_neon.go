//go:build ignore

// Generates the NEON kernels of Q4_K.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

func main() {
	neongen.Coded("Q4_K", 256, neongen.Nibbles(false)).Generate()
}
