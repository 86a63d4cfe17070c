//go:build ignore

// Generates the vector kernels of Q6_K.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/internal/p16gen"
)

// Offsets in a packed block, as in cpu.go.
const (
	highAt   = 256
	scalesAt = 384
)

func main() {
	p16gen.Int8{
		Name:      "Q6_K",
		Block:     416,
		Super:     8,
		Head:      32,
		Tokens512: 6, // two dot products a token
		Dot512:    dot512,
		Dot256:    dot256,
		Unpack:    unpack,
		Halves:    true,
	}.Generate()
}

// dot512 sums each sub-block of 16 columns with its offset of 32, multiplies by
// its scale, and takes the offsets off in one step for both:
// −32·(s0·Σq0 + s1·Σq1).
func dot512() func(*p16gen.Block) {
	low4, pair := p16gen.Constant512(0x0f0f0f0f), p16gen.Constant512(0x30303030)
	return func(b *p16gen.Block) {
		second := *b // the sums of columns 16..31
		second.Sum = make([]reg.VecVirtual, len(b.Sum))
		for i := range b.Sum {
			second.Sum[i] = ZMM()
			p16gen.Zero512(b.Sum[i])
			p16gen.Zero512(second.Sum[i])
		}
		dots := [2]*p16gen.Dots512{p16gen.NewDots512(b, 2), p16gen.NewDots512(&second, 2)}
		for g := range 4 {
			for sub := range 2 {
				dots[sub].Add(unpack512(b, g, sub, low4, pair), 16*sub+4*g)
			}
		}
		dots[0].Join()
		dots[1].Join()
		scale512(b, second.Sum)
	}
}

// unpack512 returns columns 16·sub+4g.. as unsigned bytes.
func unpack512(b *p16gen.Block, g, sub int, low4, pair reg.VecVirtual) reg.VecVirtual {
	q, high := ZMM(), ZMM()
	VMOVDQU64(b.Weights(64*g), q)
	VMOVDQU64(b.Weights(highAt+64*(g/2)), high)
	if sub == 1 {
		VPSRLW(Imm(4), q, q)
	}
	switch {
	case g%2 == 0 && sub == 1:
		VPSRLW(Imm(2), high, high)
	case g%2 == 1:
		VPSLLW(Imm(uint64(4-2*sub)), high, high)
	}
	VPANDD(pair, high, high)
	VPTERNLOGD(Imm(selectOr), low4, high, q) // q = q&low4 | high
	return q
}

// selectOr is the truth table of (destination AND third) OR second, as
// VPTERNLOGD wants it.
const selectOr = 0xec

// scale512 leaves s0·sum0 + s1·sum1 − 32·(s0·Σq0 + s1·Σq1) in the sums.
func scale512(b *p16gen.Block, second []reg.VecVirtual) {
	scales, offset, s0, s1 := ZMM(), ZMM(), ZMM(), ZMM()
	VPMOVSXBW(b.Weights(scalesAt), scales) // int16 pairs s0, s1
	p16gen.Zero512(offset)
	VPSUBW(scales, offset, offset)
	VPSLLW(Imm(5), offset, offset)
	VPSLLD(Imm(16), scales, s0)
	VPSRAD(Imm(16), s0, s0)
	VPSRAD(Imm(16), scales, s1)
	for i, sum := range b.Sum {
		VPMULLD(s0, sum, sum)
		VPMULLD(s1, second[i], second[i])
		VPADDD(second[i], sum, sum)
		VPDPWSSD_BCST(b.Sums(i), offset, sum)
	}
}

// unpack takes the offset of 32 off, and leaves the scales of the halves.
func unpack() func(*p16gen.Block, p16gen.Put) {
	low4, pair, offset := p16gen.Constant512(0x0f0f0f0f), p16gen.Constant512(0x30303030), p16gen.Constant512(0xe0e0e0e0)
	return func(b *p16gen.Block, put p16gen.Put) {
		for v := range 8 {
			q := unpack512(b, v%4, v/4, low4, pair)
			VPADDB(offset, q, q)
			put(v, q)
		}
		scales := ZMM()
		VPMOVSXBW(b.Weights(scalesAt), scales) // int16 pairs s0, s1
		b.Halves = p16gen.Pairs512(scales)
	}
}

// dot256 adds two pairs of products in int16 (63·127·4 = 32,004) and multiplies
// them by the sub-block's scale as it adds them up in int32.
func dot256() func(*p16gen.Block) {
	low4, pair := p16gen.Constant256(0x0f0f0f0f), p16gen.Constant256(0x30303030)
	return func(b *p16gen.Block) {
		offsets256(b)
		scale, u0, u1, x, y := YMM(), YMM(), YMM(), YMM(), YMM()
		for sub := range 2 {
			for g := 0; g < 4; g += 2 {
				b.EachHalf(func(half int) {
					unpack256(b, g, sub, half, low4, pair, u0)
					unpack256(b, g+1, sub, half, low4, pair, u1)
					scale256(b, half, sub, scale)
				}, func(i int) {
					VPBROADCASTD(b.Act(i, 16*sub+4*g), x)
					VPMADDUBSW(x, u0, x)
					VPBROADCASTD(b.Act(i, 16*sub+4*g+4), y)
					VPMADDUBSW(y, u1, y)
					VPADDW(y, x, x)
					VPMADDWD(scale, x, x)
					VPADDD(x, b.Sum[i], b.Sum[i])
				})
			}
		}
	}
}

// offsets256 begins the sums with −32·(s0·Σq0 + s1·Σq1).
func offsets256(b *p16gen.Block) {
	scales, x := YMM(), YMM()
	b.EachHalf(func(half int) {
		VPMOVSXBW(b.Weights(scalesAt+16*half), scales) // int16 pairs s0, s1
		VPXOR(x, x, x)
		VPSUBW(scales, x, scales)
		VPSLLW(Imm(5), scales, scales)
	}, func(i int) {
		VPBROADCASTD(b.Sums(i), x)
		VPMADDWD(scales, x, b.Sum[i])
	})
}

// unpack256 loads columns 16·sub+4g.. of half the lanes as unsigned bytes.
func unpack256(b *p16gen.Block, g, sub, half int, low4, pair, q reg.VecVirtual) {
	high := YMM()
	VMOVDQU(b.Weights(64*g+32*half), q)
	VMOVDQU(b.Weights(highAt+64*(g/2)+32*half), high)
	if sub == 1 {
		VPSRLW(Imm(4), q, q)
	}
	switch {
	case g%2 == 0 && sub == 1:
		VPSRLW(Imm(2), high, high)
	case g%2 == 1:
		VPSLLW(Imm(uint64(4-2*sub)), high, high)
	}
	VPAND(low4, q, q)
	VPAND(pair, high, high)
	VPOR(high, q, q)
}

// scale256 loads the scales of a sub-block, each twice as int16.
func scale256(b *p16gen.Block, half, sub int, scale reg.VecVirtual) {
	x := YMM()
	VPMOVSXBW(b.Weights(scalesAt+16*half), scale)
	if sub == 0 {
		VPSLLD(Imm(16), scale, x)
		VPBLENDW(Imm(0xaa), x, scale, scale)
	} else {
		VPSRLD(Imm(16), scale, x)
		VPBLENDW(Imm(0x55), x, scale, scale)
	}
}
