//go:build ignore

// Generates the vector kernels of Q5_0.
package main

import "github.com/shoal-llm/shoal/internal/p16gen"

func main() {
	p16gen.Int8{
		Name:   "Q5_0",
		Block:  352,
		Scales: 320,
		Dot512: func() func(*p16gen.Block) { return p16gen.Fives512(true) },
		Dot256: func() func(*p16gen.Block) { return p16gen.Fives256(true) },
		Unpack: func() func(*p16gen.Block, p16gen.Put) { return p16gen.UnpackFives(true) },
	}.Generate()
}
