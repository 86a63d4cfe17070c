// Package q40 is Q4_0: blocks of 32 values, a binary16 scale d and 32 nibbles
// offset by 8. Byte i holds value i in its low nibble and value i+16 in its high
// one.
//
//	value[i] = d·(q[i] − 8)
package q40

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

const (
	blockElems = 32
	blockBytes = 2 + 16
)

// Format describes Q4_0.
var Format = quant.Format{
	Name:       "Q4_0",
	GGML:       2,
	Precision:  "int4",
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
			dst[i] = d * float32(int(q&15)-8)
			dst[i+16] = d * float32(int(q>>4)-8)
		}
		dst, src = dst[blockElems:], src[blockBytes:]
	}
}
