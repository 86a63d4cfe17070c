package p16

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Fifths is the bytes that the fifth bits of a packed block take: one vector.
const Fifths = vector

// LayFifths interleaves the fifth bits of 32 values of lane r, bit c of bits
// being that of column c. Beside 4 vectors of nibbles (vector g holds columns
// 4g+j in the low nibbles and 16+4g+j in the high ones of its bytes j), byte j of
// the lane holds that of column 4g+j in bit 4+g and that of column 16+4g+j in bit
// g: for one vector, a shift by g brings both to places 4 apart.
func LayFifths(dst []byte, bits uint32, r int) {
	low, high := transpose4(uint16(bits)), transpose4(uint16(bits>>16))
	for j := range 4 {
		dst[4*r+j] = byte(low>>(4*j)&15<<4 | high>>(4*j)&15)
	}
}

// TakeFifths reads back what LayFifths laid.
func TakeFifths(src []byte, r int) uint32 {
	word := binary.LittleEndian.Uint32(src[4*r:])
	var low, high uint16
	for j := range 4 {
		low |= uint16(word>>(8*j+4)&15) << (4 * j)
		high |= uint16(word>>(8*j)&15) << (4 * j)
	}
	return uint32(transpose4(low)) | uint32(transpose4(high))<<16
}

// transpose4 transposes a matrix of 4 × 4 bits (Warren, Hacker's Delight, §7-3).
func transpose4(x uint16) uint16 {
	t := (x ^ x>>3) & 0x0a0a
	x ^= t ^ t<<3
	t = (x ^ x>>6) & 0x00cc
	return x ^ t ^ t<<6
}

// TakeFives returns the 32 unsigned values of 5 bits of lane r of a packed block:
// nibbles, as LayBytes lays them, and fifth bits.
func TakeFives(block []byte, r int) (q [quant.Block]int16) {
	var nibbles [quant.Block / 2]byte
	TakeBytes(nibbles[:], block, r)
	bits := TakeFifths(block[4*vector:], r)
	for j, n := range nibbles {
		q[j] = int16(n&15) | int16(bits>>j&1)<<4
		q[j+16] = int16(n>>4) | int16(bits>>(j+16)&1)<<4
	}
	return q
}
