package q80

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant/fit"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// encode spans each block by its largest value: with so many levels nothing is won
// by cutting it.
func encode(dst []byte, src, _ []float32) {
	for ; len(src) >= blockElems; dst, src = dst[blockBytes:], src[blockElems:] {
		x := src[:blockElems]
		var most float32
		for _, v := range x {
			most = max(most, v, -v)
		}
		half := tensor.F32ToF16(most / 127)
		binary.LittleEndian.PutUint16(dst, half)
		d := tensor.F16ToF32(half)
		for i, v := range x {
			dst[2+i] = 0
			if d > 0 {
				dst[2+i] = byte(fit.Level(v/d, -127, 127))
			}
		}
	}
}
