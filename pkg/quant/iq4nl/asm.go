//go:build ignore

// Generates the vector kernels of IQ4_NL.
package main

import (
	"github.com/shoal-llm/shoal/internal/p16gen"
	"github.com/shoal-llm/shoal/pkg/quant/codebook"
)

func main() {
	book := p16gen.Codebook{Values: codebook.IQ4()}
	p16gen.Int8{
		Name:   "IQ4_NL",
		Block:  288,
		Scales: 256,
		Dot512: book.Dot512,
		Dot256: book.Dot256,
		Unpack: book.Unpack,
	}.Generate()
}
