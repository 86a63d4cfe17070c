package q3k

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant/fit"
)

const (
	subElems               = 16
	scaleOffset, valOffset = 32, 4
)

// encode fits scales of sub-blocks that are levels of the super-block's.
func encode(dst []byte, src, weight []float32) {
	var s fit.Super
	fit.Blocks(dst, src, weight, blockBytes, blockElems, func(super []byte, values, w []float32) {
		s.Scaled(values, w, subElems, fit.Range{Least: -4, Most: 3}, fit.Range{Least: -32, Most: 31})
		binary.LittleEndian.PutUint16(super[dAt:], s.D)
		for j, level := range s.Scales {
			code := byte(level + scaleOffset)
			super[scalesAt+j%8] |= code & 15 << (j / 8 * 4)
			super[scalesAt+8+j%4] |= code >> 4 << (j / 4 * 2)
		}
		for i, level := range s.Levels {
			put(super, i, byte(level+valOffset))
		}
	})
}

// put writes value i of a super-block, offset by 4, over zeros.
func put(super []byte, i int, q byte) {
	super[i%32] |= q >> 2 << (i / 32)
	super[pairsAt+i/128*32+i%32] |= q & 3 << (i % 128 / 32 * 2)
}
