// Package f32 is the plain format: little-endian IEEE 754 binary32.
package f32

import (
	"encoding/binary"
	"math"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Format describes F32.
var Format = quant.Format{
	Name:       "F32",
	GGML:       0,
	Precision:  "fp32",
	BlockElems: 1,
	BlockBytes: 4,
	Decode:     decode,
	CPU:        &cpuKernels,
	GPU:        &gpu,
}

func decode(dst []float32, src []byte) {
	src = src[:4*len(dst)]
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}
