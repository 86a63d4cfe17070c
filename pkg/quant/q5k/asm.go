//go:build ignore

// Generates the vector kernels of Q5_K.
package main

import "github.com/shoal-llm/shoal/internal/p16gen"

func main() {
	p16gen.Super{
		Name:   "Q5_K",
		Block:  320,
		Dot512: func() func(*p16gen.Block) { return p16gen.Fives512(false) },
		Dot256: func() func(*p16gen.Block) { return p16gen.Fives256(false) },
		Unpack: func() func(*p16gen.Block, p16gen.Put) { return p16gen.UnpackFives(false) },
	}.Generate()
}
