// Package q5k is Q5_K: super-blocks of 256 values in 8 sub-blocks of 32, with
// 5-bit values. A super-block is a head of two binary16 factors and 6-bit codes
// of scales and minimums (kquant), 32 bytes of fifth bits and 128 bytes of
// nibbles. Value j of sub-block i has its fifth bit in bit i of byte j, and its
// nibble where Q4_K has it: in byte 32·(i/2)+j, low for an even i.
//
//	value[i] = (d·sc)·q[i] − dmin·m, rounded after the product with q and after
//	the difference
//
// d·sc and dmin·m are exact in float32. So the kernels round the scale product
// once, in (d·sc)·da, and then add the minimum (kquant), sub-blocks ascending.
package q5k

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/kquant"
)

// Offsets of the parts of a super-block.
const (
	fifthsAt   = kquant.FileHead
	nibblesAt  = fifthsAt + quant.Block
	blockBytes = nibblesAt + kquant.Elems/2
)

// Format describes Q5_K.
var Format = quant.Format{
	Name:       "Q5_K",
	GGML:       13,
	Precision:  "int5",
	BlockElems: kquant.Elems,
	BlockBytes: blockBytes,
	Decode:     decode,
	Encode:     encode,
	CPU:        &cpuKernels,
	GPU:        &gpu,
}

func decode(dst []float32, src []byte) {
	for len(dst) >= kquant.Elems {
		head := kquant.ReadHead(src)
		for i := range kquant.Blocks {
			scale, minimum := head.Block(i)
			bits := fifths(src, i)
			block := dst[i*quant.Block:][:quant.Block]
			for j, q := range kquant.Nibbles(src[nibblesAt:], i) {
				low, high := q&15|byte(bits>>j&1)<<4, q>>4|byte(bits>>(j+16)&1)<<4
				block[j] = float32(scale*float32(low)) - minimum
				block[j+16] = float32(scale*float32(high)) - minimum
			}
		}
		dst, src = dst[kquant.Elems:], src[blockBytes:]
	}
}

// fifths returns the fifth bits of sub-block i of a super-block, bit j being that
// of value j. A product with eight powers of two brings the lowest bits of eight
// bytes together.
func fifths(super []byte, i int) (bits uint32) {
	src := super[fifthsAt:nibblesAt]
	for j := 0; j < len(src); j += 8 {
		lowest := binary.LittleEndian.Uint64(src[j:]) >> i & 0x0101010101010101
		bits |= uint32(lowest*0x0102040810204080>>56) << j
	}
	return bits
}
