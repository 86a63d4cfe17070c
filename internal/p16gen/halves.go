package p16gen

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Halves is the dot product of blocks whose weights are small unsigned integers
// less Offset, and whose two halves of 16 columns each have an integer scale:
//
//	s0·Σ(q−Offset)·a + s1·Σ(q−Offset)·a
//
// The sum of a half must fit int16, which q ≤ 7 does: 7·127·16 = 14,224.
type Halves struct {
	Offset int

	// Scales512 and Scales256 load constants and return what loads the scales
	// s0, s1 of all lanes or of half of them, as int16 pairs.
	Scales512 func() func(b *Block) reg.VecVirtual
	Scales256 func() func(b *Block, half int, scales reg.VecVirtual)

	// Unpack512 and Unpack256 load constants and return what loads columns
	// c..c+3 as unsigned bytes, for all lanes or half of them. Columns come in
	// the order 16..31, 0..15 and in any, respectively.
	Unpack512 func() func(b *Block, c int) reg.VecVirtual
	Unpack256 func() func(b *Block, c, half int, q reg.VecVirtual)

	bias, fromBias, fromOffset Mem // constants
}

// bias makes the sum of a half positive, and leaves it below 2¹⁵.
const bias = 1 << 14

// constants writes the constants, once a file.
func (h *Halves) constants() {
	if h.bias.Symbol.Name != "" {
		return
	}
	h.bias = static("bias", bias, 1)
	h.fromBias = static("fromBias", 0x10000-bias, 16)
	h.fromOffset = static("fromOffset", 0x10001*uint32(uint16(-h.Offset)), 16)
}

// static writes n copies of a constant to read-only memory.
func static(name string, x uint32, n int) Mem {
	at := GLOBL(name, RODATA|NOPTR)
	for i := range n {
		DATA(4*i, U32(x))
	}
	return at
}

// Dot512 holds both sums of a token in one register, as int16 pairs for the
// scales: the second half's is shifted up before the first's is added. The bias
// keeps that from borrowing; s0·bias is taken off in the end.
func (h *Halves) Dot512() func(*Block) {
	h.constants()
	unpack, scales := h.Unpack512(), h.Scales512()
	return func(b *Block) {
		for _, sum := range b.Sum {
			Zero512(sum)
		}
		dots := NewDots512(b, 1)
		for c := 16; c < 32; c += 4 {
			dots.Add(unpack(b, c), c)
		}
		for _, sum := range b.Sum {
			VPSLLD(Imm(16), sum, sum)
			VPADDD_BCST(h.bias, sum, sum)
		}
		for c := 0; c < 16; c += 4 {
			dots.Add(unpack(b, c), c)
		}
		h.scale512(b, scales(b))
	}
}

// scale512 multiplies the two sums of each token by the scales.
func (h *Halves) scale512(b *Block, scales reg.VecVirtual) {
	start, offset := ZMM(), ZMM()
	VPMADDWD(h.fromBias, scales, start)
	if h.Offset != 0 {
		VPMULLW(h.fromOffset, scales, offset)
	}
	for i, sum := range b.Sum {
		total := ZMM()
		VMOVDQA64(start, total)
		VPDPWSSD(scales, sum, total)
		if h.Offset != 0 {
			VPDPWSSD_BCST(b.Sums(i), offset, total)
		}
		b.Sum[i] = total
	}
}

// Dot256 adds two pairs of products in int16 and multiplies them by the half's
// scale as it adds them up in int32.
func (h *Halves) Dot256() func(*Block) {
	h.constants()
	unpack, scales := h.Unpack256(), h.Scales256()
	return func(b *Block) {
		h.start256(b, scales)
		scale, u0, u1, x, y := YMM(), YMM(), YMM(), YMM(), YMM()
		for c := 0; c < 32; c += 8 {
			b.EachHalf(func(half int) {
				unpack(b, c, half, u0)
				unpack(b, c+4, half, u1)
				scales(b, half, scale)
				twice256(scale, c/16)
			}, func(i int) {
				VPBROADCASTD(b.Act(i, c), x)
				VPMADDUBSW(x, u0, x)
				VPBROADCASTD(b.Act(i, c+4), y)
				VPMADDUBSW(y, u1, y)
				VPADDW(y, x, x)
				VPMADDWD(scale, x, x)
				VPADDD(x, b.Sum[i], b.Sum[i])
			})
		}
	}
}

// start256 begins the sums with −Offset·(s0·Σq0 + s1·Σq1).
func (h *Halves) start256(b *Block, load func(b *Block, half int, scales reg.VecVirtual)) {
	if h.Offset == 0 {
		for _, sum := range b.Sum {
			VPXOR(sum, sum, sum)
		}
		return
	}
	scales, x := YMM(), YMM()
	b.EachHalf(func(half int) {
		load(b, half, scales)
		VPMULLW(h.fromOffset, scales, scales)
	}, func(i int) {
		VPBROADCASTD(b.Sums(i), x)
		VPMADDWD(scales, x, b.Sum[i])
	})
}

// twice256 leaves one of each pair of int16, twice.
func twice256(pairs reg.VecVirtual, which int) {
	x := YMM()
	if which == 0 {
		VPSLLD(Imm(16), pairs, x)
		VPBLENDW(Imm(0xaa), x, pairs, pairs)
		return
	}
	VPSRLD(Imm(16), pairs, x)
	VPBLENDW(Imm(0x55), x, pairs, pairs)
}
