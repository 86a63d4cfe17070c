//go:build ignore

// Generates the vector kernels of Q4_1.
package main

import "github.com/shoal-llm/shoal/internal/p16gen"

func main() {
	p16gen.Int8{
		Name:   "Q4_1",
		Block:  320,
		Scales: 256,
		Min:    true,
		Dot512: func() func(*p16gen.Block) { return p16gen.Nibbles512(false) },
		Dot256: func() func(*p16gen.Block) { return p16gen.Nibbles256(false) },
		Unpack: func() func(*p16gen.Block, p16gen.Put) { return p16gen.UnpackNibbles(false) },
	}.Generate()
}
