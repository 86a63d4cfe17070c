package q6k

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant/fit"
)

const (
	subElems  = 16
	valOffset = 32
)

// encode fits scales of sub-blocks that are levels of the super-block's.
func encode(dst []byte, src, weight []float32) {
	var s fit.Super
	fit.Blocks(dst, src, weight, blockBytes, blockElems, func(super []byte, values, w []float32) {
		s.Scaled(values, w, subElems, fit.Range{Least: -32, Most: 31}, fit.Range{Least: -128, Most: 127})
		binary.LittleEndian.PutUint16(super[dAt:], s.D)
		for j, level := range s.Scales {
			super[scalesAt+j] = byte(level)
		}
		for i, level := range s.Levels {
			q, half := byte(level+valOffset), i/128
			super[half*64+i%64] |= q & 15 << (i % 128 / 64 * 4)
			super[highAt+half*32+i%32] |= q >> 4 << (i % 128 / 32 * 2)
		}
	})
}
