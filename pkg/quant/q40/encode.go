package q40

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant/fit"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// encode chooses the scale of each block by its squared error.
func encode(dst []byte, src, weight []float32) {
	for ; len(src) >= blockElems; dst, src = dst[blockBytes:], src[blockElems:] {
		x, w := src[:blockElems], weight
		if w != nil {
			w, weight = weight[:blockElems], weight[blockElems:]
		}
		half := tensor.F32ToF16(fit.Scale(x, w, -8, 7))
		binary.LittleEndian.PutUint16(dst, half)
		d := tensor.F16ToF32(half)
		level := func(v float32) byte {
			if d == 0 {
				return 8
			}
			return byte(fit.Level(v/d, -8, 7) + 8)
		}
		for i := range 16 {
			dst[2+i] = level(x[i]) | level(x[i+16])<<4
		}
	}
}
