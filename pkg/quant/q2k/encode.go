package q2k

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant/fit"
)

// The levels of a value, and of a sub-block's scale and minimum.
const (
	subElems  = 16
	mostValue = 3
	mostScale = 15
)

// encode fits scales and minimums of sub-blocks that are levels of the super-block's.
func encode(dst []byte, src, weight []float32) {
	var s fit.Super
	fit.Blocks(dst, src, weight, blockBytes, blockElems, func(super []byte, values, w []float32) {
		s.Lined(values, w, subElems, mostValue, mostScale)
		binary.LittleEndian.PutUint16(super[dAt:], s.D)
		binary.LittleEndian.PutUint16(super[dminAt:], s.Min)
		for j, scale := range s.Scales {
			super[j] = byte(scale | s.Minimums[j]<<4)
		}
		for i, level := range s.Levels {
			super[valuesAt+i/128*32+i%32] |= byte(level << (i % 128 / 32 * 2))
		}
	})
}
