package p16gen

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fifths is where the fifth bits of a block lie, behind its nibbles: one vector
// as p16.LayFifths lays it. Shifted down by g, bit 4 of a byte belongs to the low
// nibbles of vector g and bit 0 to its high ones; bothFifths masks the two.
const (
	fifths     = 256
	fifthBit   = 0x10101010
	bothFifths = 0x11111111
)

// selectBits is the truth table, as VPTERNLOGD wants it, of (destination AND
// third) OR (second AND NOT third).
const selectBits = 0xe4

// Fives512 is the dot product of blocks of 32 values of 5 bits: 4 vectors of
// nibbles as Nibbles512 reads them and one of fifth bits. Each sum begins with
// −16·Σq where offset is set: the weights are then values less 16.
func Fives512(offset bool) func(*Block) {
	mask, both := Constant512(nibbles), Constant512(bothFifths)
	var minus16 reg.VecVirtual
	if offset {
		minus16 = Constant512(0xfff0fff0)
	}
	return func(b *Block) {
		for i, sum := range b.Sum {
			Zero512(sum)
			if offset {
				VPDPWSSD_BCST(b.Sums(i), minus16, sum)
			}
		}
		dots := NewDots512(b, 2)
		low, high, fifth := ZMM(), ZMM(), ZMM()
		for g := range 4 {
			VMOVDQU64(b.Weights(64*g), low)
			VPSRLW(Imm(4), low, high)
			if g == 0 {
				VPANDD(b.Weights(fifths), both, fifth)
			} else {
				VPSRLW(Imm(uint64(g)), b.Weights(fifths), fifth)
				VPANDD(both, fifth, fifth)
			}
			VPTERNLOGD(Imm(selectBits), mask, fifth, low)
			dots.Add(low, 4*g)
			VPSLLW(Imm(4), fifth, fifth)
			VPTERNLOGD(Imm(selectBits), mask, fifth, high)
			dots.Add(high, 16+4*g)
		}
		dots.Join()
	}
}

// Fives256 is Fives512 without VNNI. The products of a low and a high vector add
// up in int16, 31·127·4 = 15,748, before they are widened.
func Fives256(offset bool) func(*Block) {
	mask, bit, ones := Constant256(nibbles), Constant256(fifthBit), Constant256(0x00010001)
	return func(b *Block) {
		low, high, fifth, x, y := YMM(), YMM(), YMM(), YMM(), YMM()
		for i, sum := range b.Sum {
			if !offset {
				VPXOR(sum, sum, sum)
				continue
			}
			VPBROADCASTD(b.Start(i), sum) // −8·Σq
			VPADDD(sum, sum, sum)
		}
		for g := range 4 {
			b.EachHalf(func(half int) {
				unpackFives256(b, g, half, mask, bit, low, high, fifth)
			}, func(i int) {
				VPBROADCASTD(b.Act(i, 4*g), x)
				VPMADDUBSW(x, low, x)
				VPBROADCASTD(b.Act(i, 16+4*g), y)
				VPMADDUBSW(y, high, y)
				VPADDW(y, x, x)
				VPMADDWD(ones, x, x)
				VPADDD(x, b.Sum[i], b.Sum[i])
			})
		}
	}
}

// unpackFives256 loads columns 4g.. (low) and 16+4g.. (high) of half the lanes as
// unsigned bytes.
func unpackFives256(b *Block, g, half int, mask, bit, low, high, fifth reg.VecVirtual) {
	VMOVDQU(b.Weights(64*g+32*half), low)
	VPSRLW(Imm(4), low, high)
	VPAND(mask, low, low)
	VPAND(mask, high, high)
	VMOVDQU(b.Weights(fifths+32*half), fifth)
	if g > 0 {
		VPSRLW(Imm(uint64(g)), fifth, fifth)
	}
	shifted := YMM()
	VPSLLW(Imm(4), fifth, shifted)
	VPAND(bit, fifth, fifth)
	VPAND(bit, shifted, shifted)
	VPOR(fifth, low, low)
	VPOR(shifted, high, high)
}
