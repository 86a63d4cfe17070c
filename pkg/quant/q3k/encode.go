package q3k

import (
	"encoding/binary"
	"math"

	"github.com/shoal-llm/shoal/pkg/quant/fit"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// The levels of a value and of a sub-block's scale.
const (
	subElems               = 16
	leastValue, mostValue  = -4, 3
	leastScale, mostScale  = -32, 31
	subBlocks              = blockElems / subElems
	scaleOffset, valOffset = 32, 4
)

// encode chooses a scale for each sub-block by its squared error, one for the
// super-block that these are levels of, and of the levels next to each the best.
func encode(dst []byte, src []float32) {
	for ; len(src) >= blockElems; dst, src = dst[blockBytes:], src[blockElems:] {
		super := dst[:blockBytes]
		clear(super)
		var wanted [subBlocks]float32
		for j := range wanted {
			wanted[j] = fit.Scale(src[j*subElems:][:subElems], leastValue, mostValue)
		}
		half := tensor.F32ToF16(fit.Scale(wanted[:], leastScale, mostScale))
		binary.LittleEndian.PutUint16(super[dAt:], half)
		d := tensor.F16ToF32(half)
		for j, w := range wanted {
			x := src[j*subElems:][:subElems]
			level := 0
			if d != 0 {
				level = bestScale(x, d, fit.Level(w/d, leastScale, mostScale))
			}
			code := byte(level + scaleOffset)
			super[scalesAt+j%8] |= code & 15 << (j / 8 * 4)
			super[scalesAt+8+j%4] |= code >> 4 << (j / 4 * 2)
			for i, v := range x {
				put(super, j*subElems+i, byte(round(v, d*float32(level))+valOffset))
			}
		}
	}
}

// bestScale returns the level of a sub-block's scale, near a first one, with the
// least squared error.
func bestScale(x []float32, d float32, first int) (best int) {
	least := float32(math.Inf(1))
	for level := max(first-1, leastScale); level <= min(first+1, mostScale); level++ {
		var sum float32
		for _, v := range x {
			scale := d * float32(level)
			e := v - float32(scale*float32(round(v, scale)))
			sum += float32(e * e)
		}
		if sum < least {
			least, best = sum, level
		}
	}
	return best
}

func round(v, scale float32) int {
	if scale == 0 {
		return 0
	}
	return fit.Level(v/scale, leastValue, mostValue)
}

// put writes value i of a super-block, offset by 4, over zeros.
func put(super []byte, i int, q byte) {
	super[i%32] |= q >> 2 << (i / 32)
	super[pairsAt+i/128*32+i%32] |= q & 3 << (i % 128 / 32 * 2)
}
