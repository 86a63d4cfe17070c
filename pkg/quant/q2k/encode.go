package q2k

import (
	"encoding/binary"
	"math"

	"github.com/shoal-llm/shoal/pkg/quant/fit"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// The levels of a value, and of a sub-block's scale and minimum.
const (
	subElems  = 16
	subBlocks = blockElems / subElems
	mostValue = 3
	mostScale = 15
)

// encode chooses a scale and a minimum for each sub-block by its squared error,
// those of the super-block that these are levels of, and of the levels next to each
// pair the best.
func encode(dst []byte, src []float32) {
	for ; len(src) >= blockElems; dst, src = dst[blockBytes:], src[blockElems:] {
		super := dst[:blockBytes]
		clear(super)
		var scales, minimums [subBlocks]float32
		var mostS, mostM float32
		for j := range scales {
			scale, offset := fit.Line(src[j*subElems:][:subElems], mostValue)
			scales[j], minimums[j] = scale, -offset
			mostS, mostM = max(mostS, scale), max(mostM, -offset)
		}
		d, dmin := tensor.F32ToF16(mostS/mostScale), tensor.F32ToF16(mostM/mostScale)
		binary.LittleEndian.PutUint16(super[dAt:], d)
		binary.LittleEndian.PutUint16(super[dminAt:], dmin)
		for j := range scales {
			putSub(super, j, src[j*subElems:][:subElems], tensor.F16ToF32(d), tensor.F16ToF32(dmin), scales[j], minimums[j])
		}
	}
}

// putSub writes sub-block j over zeros, with levels near the wanted ones.
func putSub(super []byte, j int, x []float32, d, dmin, scale, minimum float32) {
	firstS, firstM := nearest(scale, d), nearest(minimum, dmin)
	least, bestS, bestM := float32(math.Inf(1)), 0, 0
	for s := max(firstS-1, 0); s <= min(firstS+1, mostScale); s++ {
		for m := max(firstM-1, 0); m <= min(firstM+1, mostScale); m++ {
			if e := fit.Error(x, d*float32(s), -dmin*float32(m), mostValue); e < least {
				least, bestS, bestM = e, s, m
			}
		}
	}
	super[j] = byte(bestS | bestM<<4)
	ds, m := d*float32(bestS), dmin*float32(bestM)
	for i, v := range x {
		q := 0
		if ds > 0 {
			q = fit.Level((v+m)/ds, 0, mostValue)
		}
		at := j*subElems + i
		super[valuesAt+at/128*32+at%32] |= byte(q << (at % 128 / 32 * 2))
	}
}

func nearest(x, step float32) int {
	if step == 0 {
		return 0
	}
	return fit.Level(x/step, 0, mostScale)
}
