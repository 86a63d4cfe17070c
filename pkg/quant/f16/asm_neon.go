//go:build ignore

// Generates the NEON kernels of F16.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

func main() {
	neongen.Float{Name: "F16", Value: 2, Widen: widen}.Generate()
}

func widen(a *neongen.Asm, dst []neongen.V, base neongen.R) {
	for i := 0; i < len(dst); i += 2 {
		a.LoadQ(dst[i+1], base, 8*i)
		a.FCVTL(dst[i], dst[i+1])
		a.FCVTL2(dst[i+1], dst[i+1])
	}
}
