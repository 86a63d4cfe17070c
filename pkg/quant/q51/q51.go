// Package q51 is Q5_1: blocks of 32 values, a binary16 scale d, a binary16
// minimum m, 32 fifth bits (bit i of a little-endian word is that of value i) and
// 32 nibbles. Byte i holds the nibble of value i (low) and of value i+16 (high).
//
//	value[i] = d·q[i] + m, rounded after the product and after the sum
package q51

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// Offsets of the parts of a block.
const (
	blockElems = 32
	minimumAt  = 2
	fifthsAt   = 4
	nibblesAt  = fifthsAt + 4
	blockBytes = nibblesAt + 16
)

// Format describes Q5_1.
var Format = quant.Format{
	Name:       "Q5_1",
	GGML:       7,
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
		m := tensor.F16ToF32(binary.LittleEndian.Uint16(src[minimumAt:]))
		bits := binary.LittleEndian.Uint32(src[fifthsAt:])
		for i, q := range src[nibblesAt:blockBytes] {
			low, high := q&15|byte(bits>>i&1)<<4, q>>4|byte(bits>>(i+16)&1)<<4
			dst[i] = float32(d*float32(low)) + m
			dst[i+16] = float32(d*float32(high)) + m
		}
		dst, src = dst[blockElems:], src[blockBytes:]
	}
}
