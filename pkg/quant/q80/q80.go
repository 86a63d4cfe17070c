// Package q80 is Q8_0: blocks of 32 values, a binary16 scale d and 32 int8.
//
//	value[i] = d·q[i]
package q80

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

const (
	blockElems = 32
	blockBytes = 2 + 32
)

// Format describes Q8_0.
var Format = quant.Format{
	Name:       "Q8_0",
	GGML:       8,
	Precision:  "int8",
	BlockElems: blockElems,
	BlockBytes: blockBytes,
	Decode:     decode,
	Encode:     encode,
	CPU:        &cpuKernels,
	GPU:        &gpu,
}

func decode(dst []float32, src []byte) {
	for len(dst) >= blockElems {
		d := tensor.F16ToF32(binary.LittleEndian.Uint16(src))
		for i, q := range src[2:blockBytes] {
			dst[i] = d * float32(int8(q))
		}
		dst, src = dst[blockElems:], src[blockBytes:]
	}
}
