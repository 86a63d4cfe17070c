//go:build ignore

// Generates the vector kernels of Q5_1.
package main

import "github.com/shoal-llm/shoal/internal/p16gen"

func main() {
	p16gen.Int8{
		Name:   "Q5_1",
		Block:  384,
		Scales: 320,
		Min:    true,
		Dot512: func() func(*p16gen.Block) { return p16gen.Fives512(false) },
		Dot256: func() func(*p16gen.Block) { return p16gen.Fives256(false) },
		Unpack: func() func(*p16gen.Block, p16gen.Put) { return p16gen.UnpackFives(false) },
	}.Generate()
}
