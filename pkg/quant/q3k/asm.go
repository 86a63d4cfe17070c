//go:build ignore

// Generates the vector kernels of Q3_K.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/internal/p16gen"
)

// scalesAt is the offset of the scales in a packed block, as in cpu.go.
const scalesAt = 192

// Masks of the low three and two bits of each byte.
const (
	triples = 0x07070707
	pairs   = 0x03030303
)

func main() {
	halves := p16gen.Halves{
		Offset:    4,
		Scales512: scales512,
		Scales256: scales256,
		Unpack512: unpack512,
		Unpack256: unpack256,
	}
	p16gen.Int8{
		Name:   "Q3_K",
		Block:  224,
		Super:  8,
		Head:   32,
		Shared: &p16gen.Shared{},
		Dot512: halves.Dot512,
		Dot256: halves.Dot256,
		Unpack: halves.Unpack,
		Halves: true,
	}.Generate()
}

// place is where columns c..c+3 lie: whole in a vector, or a low pair at bit 6
// of a vector and a high bit of the last one.
type place struct {
	vector int
	shift  uint64
	split  bool
	high   uint64 // right shift that brings the high bit to bit 2
}

func locate(c int) place {
	return map[int]place{
		0: {vector: 2}, 4: {vector: 2, shift: 3},
		8: {vector: 0, shift: 6, split: true, high: 4}, 12: {vector: 1, shift: 6, split: true, high: 5},
		16: {vector: 0}, 20: {vector: 0, shift: 3},
		24: {vector: 1}, 28: {vector: 1, shift: 3},
	}[c]
}

// unpack512 returns columns c..c+3 as unsigned bytes.
func unpack512() func(*p16gen.Block, int) reg.VecVirtual {
	low2, low3 := p16gen.Constant512(pairs), p16gen.Constant512(triples)
	return func(b *p16gen.Block, c int) reg.VecVirtual {
		q, at := ZMM(), locate(c)
		if at.shift == 0 {
			VPANDD(b.Weights(64*at.vector), low3, q)
			return q
		}
		VPSRLW(Imm(at.shift), b.Weights(64*at.vector), q)
		if at.split {
			high := ZMM()
			VPSRLW(Imm(at.high), b.Weights(128), high)
			VPTERNLOGD(Imm(selectThird), low2, high, q)
		}
		VPANDD(low3, q, q)
		return q
	}
}

// selectThird is the truth table of (destination where third, else second), as
// VPTERNLOGD wants it.
const selectThird = 0xe4

func scales512() func(*p16gen.Block) reg.VecVirtual {
	return func(b *p16gen.Block) reg.VecVirtual {
		scales := ZMM()
		VPMOVSXBW(b.Weights(scalesAt), scales)
		return scales
	}
}

// unpack256 loads columns c..c+3 of half the lanes.
func unpack256() func(*p16gen.Block, int, int, reg.VecVirtual) {
	low2, low3 := p16gen.Constant256(pairs), p16gen.Constant256(triples)
	return func(b *p16gen.Block, c, half int, q reg.VecVirtual) {
		at := locate(c)
		VMOVDQU(b.Weights(64*at.vector+32*half), q)
		if at.shift > 0 {
			VPSRLW(Imm(at.shift), q, q)
		}
		if at.split {
			high := YMM()
			VMOVDQU(b.Weights(128+32*half), high)
			VPSRLW(Imm(at.high), high, high)
			VPAND(low2, q, q)
			VPANDN(high, low2, high)
			VPOR(high, q, q)
		}
		VPAND(low3, q, q)
	}
}

func scales256() func(*p16gen.Block, int, reg.VecVirtual) {
	return func(b *p16gen.Block, half int, scales reg.VecVirtual) {
		VPMOVSXBW(b.Weights(scalesAt+16*half), scales)
	}
}
