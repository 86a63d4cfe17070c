// Package q4k is Q4_K: super-blocks of 256 values in 8 sub-blocks of 32, with
// 4-bit values. A super-block is a head of two binary16 factors and 6-bit codes
// of scales and minimums (kquant) and 128 bytes of nibbles: byte j of 32k..32k+31
// holds a value of sub-block 2k in its low nibble and of 2k+1 in its high one.
//
//	value[i] = (d·sc)·q[i] − dmin·m, rounded after the product with q and after
//	the difference
//
// d·sc and dmin·m are exact in float32. So the kernels round the scale product
// once, in (d·sc)·da, and then add the minimum (kquant), sub-blocks ascending.
package q4k

import (
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/kquant"
)

// Offsets of the parts of a super-block.
const (
	nibblesAt  = kquant.FileHead
	blockBytes = nibblesAt + kquant.Elems/2
)

// Format describes Q4_K.
var Format = quant.Format{
	Name:       "Q4_K",
	GGML:       12,
	Precision:  "int4",
	BlockElems: kquant.Elems,
	BlockBytes: blockBytes,
	Decode:     decode,
	Encode:     encode,
	CPU:        &cpuKernels,
	GPU:        &gpu,
}

func decode(dst []float32, src []byte) {
	for len(dst) >= kquant.Elems {
		head := kquant.ReadHead(src)
		for i := range kquant.Blocks {
			scale, minimum := head.Block(i)
			block := dst[i*quant.Block:][:quant.Block]
			for j, q := range kquant.Nibbles(src[nibblesAt:], i) {
				block[j] = float32(scale*float32(q&15)) - minimum
				block[j+16] = float32(scale*float32(q>>4)) - minimum
			}
		}
		dst, src = dst[kquant.Elems:], src[blockBytes:]
	}
}
