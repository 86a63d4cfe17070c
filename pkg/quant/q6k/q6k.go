// Package q6k is Q6_K: super-blocks of 256 values in 16 sub-blocks of 16, with
// 6-bit values offset by 32, an int8 scale s for each sub-block and one binary16
// scale d.
//
//	value[i] = (d·s[i/16])·(q[i] − 32), rounded after each product
//
// A super-block is 128 bytes of low nibbles, 64 bytes of high bit pairs, 16
// scales and d. Each half of 128 values takes 64 and 32 bytes of the first two:
// value i of a half has its nibble in byte i mod 64 (low for i < 64) and its
// high bits in byte i mod 32 at bit 2·(i/32).
package q6k

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// Offsets of the parts of a super-block.
const (
	blockElems = 256
	highAt     = 128
	scalesAt   = highAt + 64
	dAt        = scalesAt + 16
	blockBytes = dAt + 2
)

// Format describes Q6_K.
var Format = quant.Format{
	Name:       "Q6_K",
	GGML:       14,
	Precision:  "int6",
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
		decodeHalf(dst[:128], src[:64], src[highAt:], src[scalesAt:], d)
		decodeHalf(dst[128:256], src[64:128], src[highAt+32:], src[scalesAt+8:], d)
		dst, src = dst[blockElems:], src[blockBytes:]
	}
}

// decodeHalf decodes 128 values from 64 bytes of nibbles, 32 bytes of high bit
// pairs and 8 scales.
func decodeHalf(dst []float32, low, high, scales []byte, d float32) {
	for sub := range 8 {
		ds := d * float32(int8(scales[sub]))
		nibble := uint(sub / 4 * 4)
		pair := uint(sub / 2 * 2)
		for i := sub * 16; i < sub*16+16; i++ {
			q := low[i%64]>>nibble&15 | high[i%32]>>pair&3<<4
			dst[i] = ds * float32(int(q)-32)
		}
	}
}
