package vec

import (
	"encoding/binary"
	"math"

	"github.com/shoal-llm/shoal/pkg/tensor"
)

// CodeBlock is the number of codes that are packed together: 4 bits of code i and
// code i+16 share a byte; 2 bits of codes 0 to 15, and of 16 to 31, are a word of
// 32 bits, the first code lowest; 3 bits are these two words of low bits and one
// word of the highest bits, code 0 lowest.
const CodeBlock = 32

// halves is Ops.Halves.
func halves(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for i := range dst {
		dst[i] = tensor.F16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

// toHalves is Ops.ToHalves.
func toHalves(dst []byte, src []float32) {
	dst = dst[:2*len(src)]
	for i, v := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], tensor.F32ToF16(v))
	}
}

// codes is Ops.Codes.
func codes(dst []float32, src, scales []byte, bits, group int) {
	var table [16]float32
	n := 1 << bits
	for from := 0; from < len(dst); from += CodeBlock {
		if from%group == 0 {
			at := scales[from/group*4:]
			scale, least := tensor.F16ToF32(binary.LittleEndian.Uint16(at)), tensor.F16ToF32(binary.LittleEndian.Uint16(at[2:]))
			for k := range table[:n] {
				table[k] = float32(scale*float32(int32(k))) + least
			}
		}
		block(dst[from:][:CodeBlock:CodeBlock], src[from/8*bits:][:4*bits:4*bits], bits, &table)
	}
}

// block writes the values of 32 codes.
func block(dst []float32, src []byte, bits int, table *[16]float32) {
	switch bits {
	case 4:
		for i, b := range src[:16] {
			dst[i], dst[i+16] = table[b&15], table[b>>4]
		}
	case 3:
		low, high := binary.LittleEndian.Uint64(src), binary.LittleEndian.Uint32(src[8:])
		for i := range dst {
			dst[i] = table[low&3|uint64(high&1<<2)]
			low, high = low>>2, high>>1
		}
	default: // 2
		low := binary.LittleEndian.Uint64(src)
		for i := range dst {
			dst[i] = table[low&3]
			low >>= 2
		}
	}
}

// PackCodes is the inverse of Ops.Codes: it writes codes of bits bits and, for
// each group, a scale and a least value, both halves. The range of a group is cut
// into 2^bits equal cells, and a code means the middle of its cell: for values
// that lie anywhere in a cell that errs less than levels at both ends. A group
// that halves do not hold reads as NaN.
func PackCodes(dst, scales []byte, x []float32, bits, group int) {
	for from := 0; from < len(x); from += group {
		part := x[from : from+group]
		scale, least := cells(part, bits)
		binary.LittleEndian.PutUint16(scales[from/group*4:], scale)
		binary.LittleEndian.PutUint16(scales[from/group*4+2:], least)
		start, step := tensor.F16ToF32(least), tensor.F16ToF32(scale)
		inverse := float32(0)
		if step > 0 {
			inverse = 1 / step
		}
		most, zero := int32(1)<<bits-1, int32(math.Float32bits(roundInt))
		for i := 0; i < group; i += CodeBlock {
			var c [CodeBlock]uint32
			for j, v := range part[i:][:CodeBlock:CodeBlock] {
				code := int32(math.Float32bits(float32((v-start)*inverse)+roundInt)) - zero
				c[j] = uint32(min(max(code, 0), most))
			}
			packBlock(dst[(from+i)/8*bits:][:4*bits], &c, bits)
		}
	}
}

// cells returns the width of a group's cells and the middle of the first.
func cells(x []float32, bits int) (scale, least uint16) {
	low, high, finite := x[0], x[0], float32(0)
	for _, v := range x { // min and max of floats are slower
		if v < low {
			low = v
		}
		if v > high {
			high = v
		}
		finite += v - v
	}
	width := float32((high - low) * (1 / float32(int32(1)<<bits)))
	const limit = 65504 // the largest half
	if low < -limit || high > limit || finite != 0 {
		return 0, 0x7E00
	}
	scale = tensor.F32ToF16(width)
	return scale, tensor.F32ToF16(low + float32(width*0.5))
}

func packBlock(dst []byte, c *[CodeBlock]uint32, bits int) {
	if bits == 4 {
		for i := range 16 {
			dst[i] = byte(c[i] | c[i+16]<<4)
		}
		return
	}
	var low uint64
	var high uint32
	for i := CodeBlock - 1; i >= 0; i-- {
		low, high = low<<2|uint64(c[i]&3), high<<1|c[i]>>2
	}
	binary.LittleEndian.PutUint64(dst, low)
	if bits == 3 {
		binary.LittleEndian.PutUint32(dst[8:], high)
	}
}
