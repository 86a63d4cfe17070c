package p16gen

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// nibbles masks the low nibble of each byte.
const nibbles = 0x0f0f0f0f

// Nibbles512 is the dot product of blocks of 32 nibbles, 4 vectors of bytes that
// hold columns 4g.. (low) and 16+4g.. (high). Each sum begins with the block's
// −8·Σq where offset is set: the weights are then nibbles less 8.
func Nibbles512(offset bool) func(*Block) {
	mask := Constant512(nibbles)
	return func(b *Block) {
		for i, sum := range b.Sum {
			if offset {
				VPBROADCASTD(b.Start(i), sum)
			} else {
				Zero512(sum)
			}
		}
		dots := NewDots512(b, 4)
		low, high := ZMM(), ZMM()
		for g := range 4 {
			VMOVDQU64(b.Weights(64*g), low)
			VPSRLW(Imm(4), low, high)
			VPANDD(mask, low, low)
			VPANDD(mask, high, high)
			dots.Add(low, 4*g)
			dots.Add(high, 16+4*g)
		}
		dots.Join()
	}
}

// Nibbles256 is Nibbles512 without VNNI. The eight
// pairs of a nibble and an int8 product add up in int16: 15·127·2·8 = 30,480.
func Nibbles256(offset bool) func(*Block) {
	mask, ones := Constant256(nibbles), Constant256(0x00010001)
	return func(b *Block) {
		low, high, q := YMM(), YMM(), YMM()
		for g := range 4 {
			b.EachHalf(func(half int) {
				VMOVDQU(b.Weights(64*g+32*half), low)
				VPSRLW(Imm(4), low, high)
				VPAND(mask, low, low)
				VPAND(mask, high, high)
			}, func(i int) {
				addPairs256(b, i, low, q, 4*g, g == 0)
				addPairs256(b, i, high, q, 16+4*g, false)
			})
		}
		for i, sum := range b.Sum {
			VPMADDWD(ones, sum, sum)
			if offset {
				VPBROADCASTD(b.Start(i), q)
				VPADDD(q, sum, sum)
			}
		}
	}
}

// addPairs256 adds the products of unsigned bytes and 4 activations from column
// c on to the int16 sums of cell i, or begins them.
func addPairs256(b *Block, i int, u8, q reg.VecVirtual, c int, first bool) {
	VPBROADCASTD(b.Act(i, c), q)
	if first {
		VPMADDUBSW(q, u8, b.Sum[i])
		return
	}
	VPMADDUBSW(q, u8, q)
	VPADDW(q, b.Sum[i], b.Sum[i])
}
