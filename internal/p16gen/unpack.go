package p16gen

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Put takes vector v of an unpacked block: the signed bytes of columns 4v..4v+3.
type Put func(v int, bytes reg.VecVirtual)

// UnpackNibbles unpacks blocks of 32 nibbles as Nibbles512 reads them, less 8
// where offset is set. Each byte is an affine map of the bits of its nibble.
func UnpackNibbles(offset bool) func(*Block, Put) {
	low, high, flip := uint64(0x0102040800000000), uint64(0x1020408000000000), uint8(0)
	if offset { // q−8 is q with bit 3 inverted, and again in bits 4..7
		low, high, flip = 0x0102040808080808, 0x1020408080808080, 0xf8
	}
	maps := [2]reg.VecVirtual{constant64(low), constant64(high)}
	return func(b *Block, put Put) {
		for g := range 4 {
			w := ZMM()
			VMOVDQU64(b.Weights(64*g), w)
			for half, m := range maps {
				x := ZMM()
				VGF2P8AFFINEQB(U8(flip), m, w, x)
				put(4*half+g, x)
			}
		}
	}
}

// UnpackBytes unpacks blocks of 32 bytes with an offset of 128.
func UnpackBytes() func(*Block, Put) {
	offset := Constant512(0x80808080)
	return func(b *Block, put Put) {
		for v := range 8 {
			x := ZMM()
			VPXORD(b.Weights(64*v), offset, x)
			put(v, x)
		}
	}
}

// UnpackFives unpacks blocks of 32 values of 5 bits as Fives512 reads them, less
// 16 where offset is set.
func UnpackFives(offset bool) func(*Block, Put) {
	mask, bit := Constant512(nibbles), Constant512(fifthBit)
	var minus16 reg.VecVirtual
	if offset {
		minus16 = Constant512(0xf0f0f0f0)
	}
	return func(b *Block, put Put) {
		for g := range 4 {
			w, fifth := ZMM(), ZMM()
			VMOVDQU64(b.Weights(64*g), w)
			VPSRLW(Imm(uint64(g)), b.Weights(fifths), fifth)
			for half := range 2 {
				x, high := ZMM(), ZMM()
				if half == 0 {
					VPANDD(bit, fifth, high)
					VMOVDQA64(w, x)
				} else {
					VPSLLW(Imm(4), fifth, high)
					VPANDD(bit, high, high)
					VPSRLW(Imm(4), w, x)
				}
				VPTERNLOGD(Imm(selectBits), mask, high, x)
				if offset {
					VPADDB(minus16, x, x)
				}
				put(4*half+g, x)
			}
		}
	}
}

// Unpack looks the values of a block up.
func (c *Codebook) Unpack() func(*Block, Put) {
	mask, values := Constant512(nibbles), ZMM()
	VBROADCASTI32X4(c.table(&c.signed, "signed", 0), values)
	return func(b *Block, put Put) {
		for g := range 4 {
			for half := range 2 {
				x := ZMM()
				if half == 0 {
					VPANDD(b.Weights(64*g), mask, x)
				} else {
					VPSRLW(Imm(4), b.Weights(64*g), x)
					VPANDD(mask, x, x)
				}
				VPSHUFB(x, values, x)
				put(4*half+g, x)
			}
		}
	}
}

// Unpack takes the offset off, and leaves the scales of the halves. The format
// has no minimums.
func (h *Halves) Unpack() func(*Block, Put) {
	offset := Constant512(0x01010101 * uint32(uint8(-h.Offset)))
	unpack, scales := h.Unpack512(), h.Scales512()
	return func(b *Block, put Put) {
		for _, c := range [8]int{16, 20, 24, 28, 0, 4, 8, 12} {
			q := unpack(b, c)
			x := ZMM()
			VPADDB(offset, q, x)
			put(c/4, x)
		}
		b.Halves = Pairs512(scales(b))
	}
}

// Pairs512 returns the first and the second of each pair of int16 as float32.
func Pairs512(pairs reg.VecVirtual) (x [2]reg.VecVirtual) {
	x[0], x[1] = ZMM(), ZMM()
	VPSLLD(Imm(16), pairs, x[0])
	VPSRAD(Imm(16), x[0], x[0])
	VPSRAD(Imm(16), pairs, x[1])
	for _, v := range x {
		VCVTDQ2PS(v, v)
	}
	return x
}

// constant64 returns a register with 64 bits of x in each of its 8 parts.
func constant64(x uint64) reg.VecVirtual {
	t, v := GP64(), ZMM()
	MOVQ(U64(x), t)
	VPBROADCASTQ(t, v)
	return v
}
