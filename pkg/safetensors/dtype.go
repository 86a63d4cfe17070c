package safetensors

import (
	"math"
	"math/bits"
)

// DType names how values are stored, as the format spells it.
type DType string

// Types that models store weights in.
const (
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
)

// widths are the bits of a value of every type of the format.
var widths = map[DType]uint64{
	"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
	"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
	"I16": 16, "U16": 16, F16: 16, BF16: 16,
	"I32": 32, "U32": 32, F32: 32,
	"I64": 64, "U64": 64, "F64": 64, "C64": 64,
}

// bytesOf returns the bytes of a tensor, at most MaxInt64, or what is wrong with it.
func bytesOf(d DType, shape []uint64) (uint64, error) {
	total, ok := widths[d]
	if !ok {
		return 0, fail(ErrTensorInfo, "type %.16q is not known", string(d))
	}
	for _, n := range shape {
		hi, lo := bits.Mul64(total, n)
		if hi != 0 || lo > math.MaxInt64 {
			return 0, fail(ErrTensorInfo, "shape %v has too many values", shape)
		}
		total = lo
	}
	if total%8 != 0 {
		return 0, fail(ErrTensorInfo, "%v values of %s do not end at a byte", shape, d)
	}
	return total / 8, nil
}
