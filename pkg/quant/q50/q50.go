// Package q50 is Q5_0: blocks of 32 values, a binary16 scale d, 32 fifth bits
// (bit i of a little-endian word is that of value i) and 32 nibbles. Byte i holds
// the nibble of value i (low) and of value i+16 (high). Values are offset by 16.
//
//	value[i] = d·(q[i] − 16)
package q50

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// Offsets of the parts of a block.
const (
	blockElems = 32
	fifthsAt   = 2
	nibblesAt  = fifthsAt + 4
	blockBytes = nibblesAt + 16
	offset     = 16
)

// Format describes Q5_0.
var Format = quant.Format{
	Name:       "Q5_0",
	GGML:       6,
	Precision:  "int5",
	BlockElems: blockElems,
	BlockBytes: blockBytes,
	Decode:     decode,
	CPU:        &cpuKernels,
	GPU:        &gpu,
}

func decode(dst []float32, src []byte) {
	for len(dst) >= blockElems {
		d := tensor.F16ToF32(binary.LittleEndian.Uint16(src))
		bits := binary.LittleEndian.Uint32(src[fifthsAt:])
		for i, q := range src[nibblesAt:blockBytes] {
			low, high := q&15|byte(bits>>i&1)<<4, q>>4|byte(bits>>(i+16)&1)<<4
			dst[i] = d * float32(int(low)-offset)
			dst[i+16] = d * float32(int(high)-offset)
		}
		dst, src = dst[blockElems:], src[blockBytes:]
	}
}
