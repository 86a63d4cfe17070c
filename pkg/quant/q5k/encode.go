package q5k

import (
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/fit"
	"github.com/shoal-llm/shoal/pkg/quant/kquant"
)

// mostValue is the largest level of a value.
const mostValue = 31

// encode fits scales and minimums of sub-blocks that are levels of the super-block's.
func encode(dst []byte, src, weight []float32) {
	var s fit.Super
	fit.Blocks(dst, src, weight, blockBytes, kquant.Elems, func(super []byte, values, w []float32) {
		s.Lined(values, w, kquant.Elems/kquant.Blocks, mostValue, kquant.MostCode)
		kquant.WriteHead(super, &s)
		kquant.PutNibbles(super[nibblesAt:], &s.Levels)
		for i, level := range s.Levels {
			super[fifthsAt+i%quant.Block] |= byte(level) >> 4 << (i / quant.Block)
		}
	})
}
