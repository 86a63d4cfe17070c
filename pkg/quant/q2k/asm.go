//go:build ignore

// Generates the vector kernels of Q2_K.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/internal/p16gen"
)

// codesAt is the offset of scales and minimums in a packed block, as in cpu.go.
const codesAt = 128

// Masks of the low two bits of each byte and of the low four of each 16 bits.
const (
	pairs  = 0x03030303
	nibble = 0x000f000f
)

func main() {
	halves := p16gen.Halves{
		Scales512: scales512,
		Scales256: scales256,
		Unpack512: unpack512,
		Unpack256: unpack256,
	}
	p16gen.Int8{
		Name:   "Q2_K",
		Block:  160,
		Super:  8,
		Head:   64,
		Shared: &p16gen.Shared{Mins: true},
		Dot512: halves.Dot512,
		Dot256: func() func(*p16gen.Block) { return withMins256(halves.Dot256()) },
	}.Generate()
}

// unpack512 returns columns c..c+3: 16 columns lie in one vector.
func unpack512() func(*p16gen.Block, int) reg.VecVirtual {
	mask := p16gen.Constant512(pairs)
	var all reg.VecVirtual
	return func(b *p16gen.Block, c int) reg.VecVirtual {
		q := ZMM()
		if c%16 == 0 {
			all = ZMM()
			VMOVDQU64(b.Weights(4*c), all)
			VPANDD(mask, all, q)
			return q
		}
		VPSRLW(Imm(uint64(c%16/2)), all, q)
		VPANDD(mask, q, q)
		return q
	}
}

// scales512 returns the scales and leaves the minimums in the block.
func scales512() func(*p16gen.Block) reg.VecVirtual {
	mask := p16gen.Constant512(nibble)
	return func(b *p16gen.Block) reg.VecVirtual {
		codes, mins := ZMM(), ZMM()
		VPMOVZXBW(b.Weights(codesAt), codes)
		VPSRLW(Imm(4), codes, mins)
		VPANDD(mask, codes, codes)
		b.Mins[0] = mins
		return codes
	}
}

func unpack256() func(*p16gen.Block, int, int, reg.VecVirtual) {
	mask := p16gen.Constant256(pairs)
	return func(b *p16gen.Block, c, half int, q reg.VecVirtual) {
		VMOVDQU(b.Weights(c/16*64+32*half), q)
		if c%16 > 0 {
			VPSRLW(Imm(uint64(c%16/2)), q, q)
		}
		VPAND(mask, q, q)
	}
}

func scales256() func(*p16gen.Block, int, reg.VecVirtual) {
	mask := p16gen.Constant256(nibble)
	return func(b *p16gen.Block, half int, scales reg.VecVirtual) {
		VPMOVZXBW(b.Weights(codesAt+16*half), scales)
		VPAND(mask, scales, scales)
	}
}

// withMins256 leaves the minimums in the block.
func withMins256(dot func(*p16gen.Block)) func(*p16gen.Block) {
	return func(b *p16gen.Block) {
		dot(b)
		b.EachHalf(func(half int) {
			mins := YMM()
			VPMOVZXBW(b.Weights(codesAt+16*half), mins)
			VPSRLW(Imm(4), mins, mins)
			b.Mins[half] = mins
		}, func(int) {})
	}
}
