// Package bf16 is the bfloat16 format: the high half of a little-endian
// binary32.
package bf16

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// Format describes BF16.
var Format = quant.Format{
	Name:       "BF16",
	GGML:       30,
	Precision:  "bf16",
	BlockElems: 1,
	BlockBytes: 2,
	Decode:     decode,
	CPU:        &cpuKernels,
	GPU:        &gpu,
}

func decode(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for i := range dst {
		dst[i] = tensor.BF16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
	}
}
