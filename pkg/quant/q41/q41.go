// Package q41 is Q4_1: blocks of 32 values, a binary16 scale d, a binary16
// minimum m and 32 nibbles. Byte i holds value i in its low nibble and value
// i+16 in its high one.
//
//	value[i] = d·q[i] + m, rounded after the product and after the sum
package q41

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

const (
	blockElems = 32
	blockBytes = 4 + 16
)

// Format describes Q4_1.
var Format = quant.Format{
	Name:       "Q4_1",
	GGML:       3,
	Precision:  "int4",
	BlockElems: blockElems,
	BlockBytes: blockBytes,
	Decode:     decode,
	CPU:        &cpuKernels,
	GPU:        &gpu,
}

func decode(dst []float32, src []byte) {
	for len(dst) >= blockElems {
		d := tensor.F16ToF32(binary.LittleEndian.Uint16(src))
		m := tensor.F16ToF32(binary.LittleEndian.Uint16(src[2:]))
		for i, q := range src[4:blockBytes] {
			dst[i] = float32(d*float32(q&15)) + m
			dst[i+16] = float32(d*float32(q>>4)) + m
		}
		dst, src = dst[blockElems:], src[blockBytes:]
	}
}
