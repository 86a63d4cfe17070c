//go:build ignore

// Generates the vector kernels of Q4_K.
package main

import "github.com/shoal-llm/shoal/internal/p16gen"

func main() {
	p16gen.Super{
		Name:   "Q4_K",
		Block:  256,
		Dot512: func() func(*p16gen.Block) { return p16gen.Nibbles512(false) },
		Dot256: func() func(*p16gen.Block) { return p16gen.Nibbles256(false) },
		Unpack: func() func(*p16gen.Block, p16gen.Put) { return p16gen.UnpackNibbles(false) },
	}.Generate()
}
