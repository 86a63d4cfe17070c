// Package kquant is what the K-quants with 32-value sub-blocks and minimums
// share (Q4_K and Q5_K): the head of a super-block of 256 values, in the file
// and packed for a CPU.
//
// A super-block has a binary16 scale d and a binary16 minimum dmin, and each of
// its 8 sub-blocks a 6-bit code sc of its scale and a 6-bit code m of its
// minimum:
//
//	value = (d·sc)·q − dmin·m
//
// Both products have at most 17 significant bits: they are exact in float32. So
// the CPU class's scale product (d·sc)·da is rounded once, and a sub-block adds
//
//	acc = fma(float32(isum), round((d·sc)·da), acc)
//	acc = fma(−(dmin·m), ds, acc)
//
// sub-blocks ascending.
package kquant

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/fit"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// Sizes of a super-block.
const (
	Elems  = 256
	Blocks = Elems / quant.Block

	// FileHead is the bytes of a head in the file: d, dmin and 12 bytes of codes.
	FileHead = 2 + 2 + 12

	// BlockScales is the bytes of the codes of one block in a packed head: 16
	// codes of scales and 16 of minimums, a byte each.
	BlockScales = 2 * quant.Lanes
	// HeadBytes is the bytes of a packed head: 16 d, 16 dmin and the codes of the
	// 8 blocks.
	HeadBytes = packedCodes + Blocks*BlockScales

	packedMin   = 2 * quant.Lanes
	packedCodes = packedMin + 2*quant.Lanes
)

// Head is the head of one super-block of one row.
type Head struct {
	D, Min        float32 // d and dmin
	Scale, Minima [Blocks]byte
}

// ReadHead reads a head as it lies in the file. Of the 12 bytes of codes, the
// low 6 bits of bytes 0..3 are scales 0..3 and those of bytes 4..7 minimums
// 0..3; bytes 8..11 hold the low nibbles of scales (low) and minimums (high)
// 4..7, whose upper two bits lie above the codes of 0..3.
func ReadHead(src []byte) (h Head) {
	h.D = tensor.F16ToF32(binary.LittleEndian.Uint16(src))
	h.Min = tensor.F16ToF32(binary.LittleEndian.Uint16(src[2:]))
	codes := src[4:FileHead]
	for i := range 4 {
		scale, minimum, rest := codes[i], codes[i+4], codes[i+8]
		h.Scale[i], h.Scale[i+4] = scale&63, rest&15|scale>>6<<4
		h.Minima[i], h.Minima[i+4] = minimum&63, rest>>4|minimum>>6<<4
	}
	return h
}

// Block returns the scale and the minimum of block i: its values are
// scale·q − minimum.
func (h *Head) Block(i int) (scale, minimum float32) {
	return h.D * float32(h.Scale[i]), h.Min * float32(h.Minima[i])
}

// WriteHead writes the head of a fitted super-block as it lies in the file, over zeros.
func WriteHead(dst []byte, s *fit.Super) {
	binary.LittleEndian.PutUint16(dst, s.D)
	binary.LittleEndian.PutUint16(dst[2:], s.Min)
	codes := dst[4:FileHead]
	for i := range 4 {
		scale, minimum := byte(s.Scales[i+4]), byte(s.Minimums[i+4])
		codes[i] = byte(s.Scales[i]) | scale>>4<<6
		codes[i+4] = byte(s.Minimums[i]) | minimum>>4<<6
		codes[i+8] = scale&15 | minimum&15<<4
	}
}

// PutNibbles writes the low 4 bits of the levels of a super-block, over zeros, where
// Nibbles reads them.
func PutNibbles(dst []byte, levels *[Elems]int8) {
	for i, level := range levels {
		dst[i/64*quant.Block+i%quant.Block] |= byte(level) & 15 << (i / quant.Block % 2 * 4)
	}
}

// MostCode is the largest code of a scale or a minimum.
const MostCode = 63

// LayHead copies the head of a super-block, as it lies in the file, into lane r
// of a packed one.
func LayHead(packed, src []byte, r int) {
	copy(packed[2*r:][:2], src)
	copy(packed[packedMin+2*r:][:2], src[2:])
	h := ReadHead(src)
	for i := range Blocks {
		codes := packed[packedCodes+i*BlockScales:]
		codes[r], codes[quant.Lanes+r] = h.Scale[i], h.Minima[i]
	}
}

// TakeScales sets D and M of lane r of block i from a packed head.
func TakeScales(lane *p16.Lane, packed []byte, i, r int) {
	codes := packed[packedCodes+i*BlockScales:]
	d := tensor.F16ToF32(binary.LittleEndian.Uint16(packed[2*r:]))
	dmin := tensor.F16ToF32(binary.LittleEndian.Uint16(packed[packedMin+2*r:]))
	lane.D = d * float32(codes[r])
	lane.M = -(dmin * float32(codes[quant.Lanes+r]))
}

// Nibbles returns block i of the 128 bytes of nibbles of a super-block as Q4_0
// lays a block: byte j holds value j in its low nibble and value j+16 in its
// high one. In the file, blocks 2k and 2k+1 are the low and the high nibbles of
// the same 32 bytes.
func Nibbles(src []byte, i int) (block [quant.Block / 2]byte) {
	src = src[i/2*quant.Block:][:quant.Block]
	shift := uint(i % 2 * 4)
	for j := 0; j < len(block); j += 8 {
		low := binary.LittleEndian.Uint64(src[j:]) >> shift & 0x0f0f0f0f0f0f0f0f
		high := binary.LittleEndian.Uint64(src[j+16:]) >> shift & 0x0f0f0f0f0f0f0f0f
		binary.LittleEndian.PutUint64(block[j:], low|high<<4)
	}
	return block
}
