//go:build ignore

// Generates the NEON kernels of Q5_0.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

func main() {
	neongen.Int8{Name: "Q5_0", Block: 352, Scales: 320, Dot: neongen.Fives(true)}.Generate()
}
