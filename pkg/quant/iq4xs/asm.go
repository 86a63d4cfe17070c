//go:build ignore

// Generates the vector kernels of IQ4_XS.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/internal/p16gen"
	"github.com/shoal-llm/shoal/pkg/quant/codebook"
)

// scalesAt is the offset of the scales in a packed block, as in cpu.go.
const scalesAt = 256

func main() {
	book := p16gen.Codebook{Values: codebook.IQ4()}
	p16gen.Int8{
		Name:   "IQ4_XS",
		Block:  272,
		Super:  8,
		Head:   32,
		Shared: &p16gen.Shared{Factor: true},
		Dot512: func() func(*p16gen.Block) { return withFactor512(book.Dot512()) },
		Dot256: func() func(*p16gen.Block) { return withFactor256(book.Dot256()) },
		Unpack: func() func(*p16gen.Block, p16gen.Put) { return unpackWithFactor(book.Unpack()) },
	}.Generate()
}

// withFactor512 adds the scale of the block.
func withFactor512(dot func(*p16gen.Block)) func(*p16gen.Block) {
	return func(b *p16gen.Block) {
		dot(b)
		factor512(b)
	}
}

func factor512(b *p16gen.Block) {
	b.Factor[0] = ZMM()
	VPMOVSXBD(b.Weights(scalesAt), b.Factor[0])
	VCVTDQ2PS(b.Factor[0], b.Factor[0])
}

// unpackWithFactor adds the scale of the block.
func unpackWithFactor(unpack func(*p16gen.Block, p16gen.Put)) func(*p16gen.Block, p16gen.Put) {
	return func(b *p16gen.Block, put p16gen.Put) {
		unpack(b, put)
		factor512(b)
	}
}

func withFactor256(dot func(*p16gen.Block)) func(*p16gen.Block) {
	return func(b *p16gen.Block) {
		dot(b)
		b.EachHalf(func(half int) {
			var factor reg.VecVirtual = YMM()
			VPMOVSXBD(b.Weights(scalesAt+8*half), factor)
			VCVTDQ2PS(factor, factor)
			b.Factor[half] = factor
		}, func(int) {})
	}
}
