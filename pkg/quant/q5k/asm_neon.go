//go:build ignore

// Generates the NEON kernels of Q5_K.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

func main() {
	neongen.Coded("Q5_K", 320, neongen.Fives(false)).Generate()
}
