// Package q3k is Q3_K: super-blocks of 256 values in 16 sub-blocks of 16, with
// 3-bit values offset by 4, a 6-bit scale s offset by 32 for each sub-block and
// one binary16 scale d.
//
//	value[i] = (d·(s[i/16] − 32))·(q[i] − 4)
//
// The products have at most 20 bits and are exact. A dot product sums
// (s − 32)·(q − 4) with the activations in integers, for blocks of 32 columns,
// and rounds the scale product d·da once.
//
// A super-block is 32 bytes of high bits, 64 bytes of low bit pairs, 12 bytes of
// scales and d. Value i has its high bit in byte i mod 32 at bit i/32. Each half
// of 128 values takes 32 bytes of pairs: value i of a half lies in byte i mod 32
// at bit 2·(i/32). Scale j has its low nibble in byte j mod 8 (low for j < 8)
// and its high pair in byte 8 + j mod 4 at bit 2·(j/4).
package q3k

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// Offsets of the parts of a super-block.
const (
	blockElems = 256
	pairsAt    = 32
	scalesAt   = pairsAt + 64
	dAt        = scalesAt + 12
	blockBytes = dAt + 2
	blocks     = blockElems / quant.Block
)

// Format describes Q3_K.
var Format = quant.Format{
	Name:       "Q3_K",
	GGML:       11,
	Precision:  "int3",
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
		for b := range blocks {
			q := values(src, b)
			widen(dst[b*quant.Block:][:quant.Block], &q, d, scales(src, b))
		}
		dst, src = dst[blockElems:], src[blockBytes:]
	}
}

// values returns the 32 values of block b of a super-block, offset by 4.
func values(super []byte, b int) (q [quant.Block]byte) {
	pairs := super[pairsAt+b/4*32:][:quant.Block]
	for i := 0; i < quant.Block; i += 8 {
		low := binary.LittleEndian.Uint64(pairs[i:]) >> (b % 4 * 2) & 0x0303030303030303
		high := binary.LittleEndian.Uint64(super[i:]) >> b & 0x0101010101010101
		binary.LittleEndian.PutUint64(q[i:], low|high<<2)
	}
	return q
}

// scales returns the scales of the two sub-blocks of block b, −32..31.
func scales(super []byte, b int) (s [2]int8) {
	packed := super[scalesAt:][:12]
	for i := range s {
		j := 2*b + i
		low := packed[j%8] >> (j / 8 * 4) & 15
		high := packed[8+j%4] >> (j / 4 * 2) & 3
		s[i] = int8(high<<4|low) - 32
	}
	return s
}

// widen writes the weights of a block with the scales s.
func widen(dst []float32, q *[quant.Block]byte, d float32, s [2]int8) {
	for i, v := range q {
		ds := float32(d * float32(s[i/16]))
		dst[i] = ds * float32(int(v)-4)
	}
}
