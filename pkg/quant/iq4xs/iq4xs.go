// Package iq4xs is IQ4_XS: super-blocks of 256 values in 8 blocks of 32, with
// 4-bit codes, a 6-bit scale s offset by 32 for each block and one binary16
// scale d.
//
//	value[i] = (d·(s[i/32] − 32))·level[code[i]]
//
// The 16 levels are fixed (codebook.IQ4). d·(s − 32) has at most 17 bits and is
// exact; the product with the level is rounded once. In a dot product
// d·(s − 32) is the scale of the block, and only its product with the scale of
// the activations is rounded.
//
// A super-block is d, 16 bits with the high bit pairs of the scales (block b at
// bit 2b), 4 bytes with their low nibbles (block b in byte b/2), and 8 times 16
// bytes of codes: byte i holds value i of its block in the low nibble and value
// i+16 in the high one.
package iq4xs

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/codebook"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// Offsets of the parts of a super-block.
const (
	blockElems = 256
	highAt     = 2
	lowAt      = highAt + 2
	codesAt    = lowAt + 4
	blockBytes = codesAt + 128
	blocks     = blockElems / quant.Block
)

// Format describes IQ4_XS.
var Format = quant.Format{
	Name:       "IQ4_XS",
	GGML:       23,
	Precision:  "int4",
	BlockElems: blockElems,
	BlockBytes: blockBytes,
	Decode:     decode,
	CPU:        &cpuKernels,
	GPU:        &gpu,
}

func decode(dst []float32, src []byte) {
	levels := codebook.IQ4()
	for len(dst) >= blockElems {
		d := tensor.F16ToF32(binary.LittleEndian.Uint16(src))
		for b := range blocks {
			ds := d * float32(scale(src, b))
			part := dst[b*quant.Block:][:quant.Block]
			for i, code := range codes(src, b) {
				part[i] = ds * float32(levels[code&15])
				part[i+16] = ds * float32(levels[code>>4])
			}
		}
		dst, src = dst[blockElems:], src[blockBytes:]
	}
}

// scale returns the scale of block b of a super-block, −32..31.
func scale(super []byte, b int) int8 {
	high := binary.LittleEndian.Uint16(super[highAt:]) >> (2 * b) & 3
	low := super[lowAt+b/2] >> (4 * (b % 2)) & 15
	return int8(high<<4|uint16(low)) - 32
}

// codes returns the 16 bytes of codes of block b of a super-block.
func codes(super []byte, b int) []byte { return super[codesAt+16*b:][:16] }
