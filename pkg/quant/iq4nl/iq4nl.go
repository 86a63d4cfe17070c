// Package iq4nl is IQ4_NL: blocks of 32 values, a binary16 scale d and 32
// nibbles. Byte i holds the code of value i in its low nibble and that of value
// i+16 in its high one.
//
//	value[i] = d·level[code[i]], rounded once
//
// The 16 levels are fixed (codebook.IQ4). The dot product of a block sums the
// integer levels and is scaled by d, as in Q4_0.
package iq4nl

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/codebook"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

const (
	blockElems = 32
	blockBytes = 2 + 16
)

// Format describes IQ4_NL.
var Format = quant.Format{
	Name:       "IQ4_NL",
	GGML:       20,
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
		for i, code := range src[2:blockBytes] {
			dst[i] = d * float32(levels[code&15])
			dst[i+16] = d * float32(levels[code>>4])
		}
		dst, src = dst[blockElems:], src[blockBytes:]
	}
}
