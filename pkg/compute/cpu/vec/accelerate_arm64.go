package vec

import "github.com/shoal-llm/shoal/pkg/quant"

// kernelsOf returns the kernels of a level, nil if there are none.
func kernelsOf(level quant.Level) *kernels {
	if level == quant.NEON {
		return &neon
	}
	return nil
}

var neon = kernels{
	sumSq:        neonSumSq,
	norm:         neonNorm,
	add:          neonAdd,
	exp:          neonExp,
	silu:         neonSiLU,
	gelu:         neonGELU,
	finish:       neonFinish,
	quantize:     neonQuantize,
	tile:         neonTile,
	rotateHalves: neonRotateHalves,
	rotatePairs:  neonRotatePairs,
	score: []func(s, q, keys *float32, dim int){
		neonScore1, neonScore2, neonScore3, neonScore4, neonScore5, neonScore6,
	},
	values: []func(o, e, values, rows *float32, dim int){
		neonValues1, neonValues2, neonValues3, neonValues4, neonValues5, neonValues6,
	},
	softmax: neonSoftmax,
}
