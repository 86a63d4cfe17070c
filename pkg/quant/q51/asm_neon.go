//go:build ignore

// Generates the NEON kernels of Q5_1.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

func main() {
	neongen.Int8{Name: "Q5_1", Block: 384, Scales: 320, Min: true, Dot: neongen.Fives(false)}.Generate()
}
