// Package f16 is the half precision format: little-endian IEEE 754 binary16.
package f16

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// Format describes F16.
var Format = quant.Format{
	Name:       "F16",
	GGML:       1,
	Precision:  "fp16",
	BlockElems: 1,
	BlockBytes: 2,
	Decode:     decode,
	CPU:        &cpuKernels,
	GPU:        &gpu,
}

func decode(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for i := range dst {
		dst[i] = tensor.F16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
	}
}
