//go:build ignore

// Generates the NEON kernels of BF16.
package main

import "github.com/shoal-llm/shoal/internal/neongen"

func main() {
	neongen.Float{Name: "BF16", Value: 2, Widen: widen}.Generate()
}

func widen(a *neongen.Asm, dst []neongen.V, base neongen.R) {
	for i := 0; i < len(dst); i += 2 {
		a.LoadQ(dst[i+1], base, 8*i)
		a.SHLL(dst[i], dst[i+1])
		a.SHLL2(dst[i+1], dst[i+1])
	}
}
