//go:build ignore

// Generates the vector kernels of Q4_0.
package main

import "github.com/shoal-llm/shoal/internal/p16gen"

func main() {
	p16gen.Int8{
		Name:   "Q4_0",
		Block:  288,
		Scales: 256,
		Dot512: func() func(*p16gen.Block) { return p16gen.Nibbles512(true) },
		Dot256: func() func(*p16gen.Block) { return p16gen.Nibbles256(true) },
		Unpack: func() func(*p16gen.Block, p16gen.Put) { return p16gen.UnpackNibbles(true) },
	}.Generate()
}
