package p16gen

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Codebook is the dot product of blocks of 32 nibbles, laid as Nibbles512 wants
// them, each of which names one of 16 values. No value is −128.
type Codebook struct {
	Values [16]int8

	signed, unsigned Mem // constants
}

// table writes the values, plus offset, to read-only memory.
func (c *Codebook) table(at *Mem, name string, offset int) Mem {
	if at.Symbol.Name == "" {
		*at = GLOBL(name, RODATA|NOPTR)
		for i, v := range c.Values {
			DATA(i, U8(uint8(int(v)+offset)))
		}
	}
	return *at
}

// Dot512 looks the values up with an offset of 128 and begins with −128·Σq.
func (c *Codebook) Dot512() func(*Block) {
	mask, offset, values := Constant512(nibbles), Constant512(0xff80ff80), ZMM()
	VBROADCASTI32X4(c.table(&c.unsigned, "unsigned", 128), values)
	return func(b *Block) {
		for i, sum := range b.Sum {
			Zero512(sum)
			VPDPWSSD_BCST(b.Sums(i), offset, sum)
		}
		dots := NewDots512(b, 4)
		low, high := ZMM(), ZMM()
		for g := range 4 {
			VMOVDQU64(b.Weights(64*g), low)
			VPSRLW(Imm(4), low, high)
			VPANDD(mask, low, low)
			VPANDD(mask, high, high)
			VPSHUFB(low, values, low)
			VPSHUFB(high, values, high)
			dots.Add(low, 4*g)
			dots.Add(high, 16+4*g)
		}
		dots.Join()
	}
}

// Dot256 multiplies |w| by the activation with the sign of w: 127·127·2 =
// 32,258 fits int16.
func (c *Codebook) Dot256() func(*Block) {
	mask, ones, values := Constant256(nibbles), Constant256(0x00010001), YMM()
	VBROADCASTI128(c.table(&c.signed, "signed", 0), values)
	return func(b *Block) {
		w, abs, q := YMM(), YMM(), YMM()
		for g := range 4 {
			for nibble := range 2 {
				b.EachHalf(func(half int) {
					VMOVDQU(b.Weights(64*g+32*half), w)
					if nibble == 1 {
						VPSRLW(Imm(4), w, w)
					}
					VPAND(mask, w, w)
					VPSHUFB(w, values, w)
					VPABSB(w, abs)
				}, func(i int) {
					signed256(b, i, 16*nibble+4*g, g+nibble == 0, w, abs, q, ones)
				})
			}
		}
	}
}

// signed256 adds the products of weights w and 4 activations from column col on
// to the sums of cell i, or begins them.
func signed256(b *Block, i, col int, first bool, w, abs, q, ones reg.VecVirtual) {
	VPBROADCASTD(b.Act(i, col), q)
	VPSIGNB(w, q, q)
	VPMADDUBSW(q, abs, q)
	if first {
		VPMADDWD(ones, q, b.Sum[i])
		return
	}
	VPMADDWD(ones, q, q)
	VPADDD(q, b.Sum[i], b.Sum[i])
}
