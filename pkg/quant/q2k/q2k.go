// Package q2k is Q2_K: super-blocks of 256 values in 16 sub-blocks of 16, with
// 2-bit values, a 4-bit scale s and a 4-bit minimum m for each sub-block, and a
// binary16 scale d and scale of minimums dmin.
//
//	value[i] = (d·s[i/16])·q[i] − dmin·m[i/16]
//
// Each product has at most 17 bits and is exact; the difference is rounded once.
// A dot product sums s·q and m with the activations in integers, for blocks of
// 32 columns, and rounds the scale products d·da and dmin·da once each:
//
//	acc = fma(Σ s·q·a, round(d·da), acc)
//	acc = fma(−Σ m·a, round(dmin·da), acc)
//
// A super-block is 16 bytes of scales (low nibble) and minimums (high), 64 bytes
// of values, d and dmin. Each half of 128 values takes 32 bytes: value i of a
// half lies in byte i mod 32 at bit 2·(i/32).
package q2k

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// Offsets of the parts of a super-block.
const (
	blockElems = 256
	valuesAt   = 16
	dAt        = valuesAt + 64
	dminAt     = dAt + 2
	blockBytes = dminAt + 2
	blocks     = blockElems / quant.Block
)

// Format describes Q2_K.
var Format = quant.Format{
	Name:       "Q2_K",
	GGML:       10,
	Precision:  "int2",
	BlockElems: blockElems,
	BlockBytes: blockBytes,
	Decode:     decode,
	Encode:     encode,
	CPU:        &cpuKernels,
	GPU:        &gpu,
}

func decode(dst []float32, src []byte) {
	for len(dst) >= blockElems {
		d := tensor.F16ToF32(binary.LittleEndian.Uint16(src[dAt:]))
		dmin := tensor.F16ToF32(binary.LittleEndian.Uint16(src[dminAt:]))
		for b := range blocks {
			q := values(src, b)
			widen(dst[b*quant.Block:][:quant.Block], &q, d, dmin, [2]byte(src[2*b:]))
		}
		dst, src = dst[blockElems:], src[blockBytes:]
	}
}

// values returns the 32 values of block b of a super-block.
func values(super []byte, b int) (q [quant.Block]byte) {
	pairs := super[valuesAt+b/4*32:][:quant.Block]
	for i := 0; i < quant.Block; i += 8 {
		eight := binary.LittleEndian.Uint64(pairs[i:]) >> (b % 4 * 2)
		binary.LittleEndian.PutUint64(q[i:], eight&0x0303030303030303)
	}
	return q
}

// widen writes the weights of a block; codes are the scales and minimums of its
// sub-blocks.
func widen(dst []float32, q *[quant.Block]byte, d, dmin float32, codes [2]byte) {
	for i, v := range q {
		code := codes[i/16]
		ds, m := float32(d*float32(code&15)), float32(dmin*float32(code>>4))
		dst[i] = float32(ds*float32(v)) - m
	}
}
