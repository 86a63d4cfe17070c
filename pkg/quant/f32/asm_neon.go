//go:build ignore

// Generates the NEON kernels of F32.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

func main() {
	neongen.Float{Name: "F32", Value: 4, Widen: widen}.Generate()
}

func widen(a *neongen.Asm, dst []neongen.V, base neongen.R) {
	for i, v := range dst {
		a.LoadQ(v, base, 16*i)
	}
}
