package vec

import (
	"encoding/binary"
	"math"

	"github.com/shoal-llm/shoal/pkg/tensor"
)

// CodeBlock is the number of codes that are packed together: 8 bits are bytes; 4 bits of code i and
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
	if bits == 8 {
		for i, code := range src[:len(dst)] {
			at := scales[i/group*4:]
			scale, least := tensor.F16ToF32(binary.LittleEndian.Uint16(at)), tensor.F16ToF32(binary.LittleEndian.Uint16(at[2:]))
			dst[i] = float32(scale*float32(int32(code))) + least
		}
		return
	}
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

// columns is Ops.Columns.
func columns(dst []float32, src []byte, scale, least *[Keys]float32) {
	for ; len(dst) >= Keys; dst, src = dst[Keys:], src[Keys:] {
		for i, code := range src[:Keys] {
			dst[i] = float32(scale[i]*float32(int32(code))) + least[i]
		}
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
// into about 2^bits cells, a code means the middle of its cell, and for these codes
// scale and least value are those of the smallest squared error: values are rounded
// to them again. A group that halves do not hold reads as NaN.
func PackCodes(dst, scales []byte, x []float32, bits, group int) {
	most := int32(1)<<bits - 1
	var c [maxGroup]uint32
	for from := 0; from < len(x); from += group {
		part := x[from : from+group]
		at := scales[from/group*4:][:4]
		scale, least, ok := cells(part, float32(most)+1)
		if !ok {
			binary.LittleEndian.PutUint16(at, 0)
			binary.LittleEndian.PutUint16(at[2:], nan16)
		} else {
			level(c[:group], part, scale, least, most)
			scale, least = line(c[:group], part, scale, least)
			s, l := tensor.F32ToF16(scale), tensor.F32ToF16(least)
			binary.LittleEndian.PutUint16(at, s)
			binary.LittleEndian.PutUint16(at[2:], l)
			level(c[:group], part, tensor.F16ToF32(s), tensor.F16ToF32(l), most)
		}
		for i := 0; i < group; i += CodeBlock {
			packBlock(dst[(from+i)/8*bits:][:4*bits], (*[CodeBlock]uint32)(c[i:]), bits)
		}
	}
}

const (
	maxGroup = 128    // values
	nan16    = 0x7E00 // a half
)

// level writes the codes from 0 to most whose values are nearest to x.
func level(c []uint32, x []float32, scale, least float32, most int32) {
	c = c[:len(x)]
	inverse := float32(0)
	if scale > 0 {
		inverse = 1 / scale
	}
	zero := int32(math.Float32bits(roundInt))
	for i, v := range x {
		code := int32(math.Float32bits(float32((v-least)*inverse)+roundInt)) - zero
		c[i] = uint32(min(max(code, 0), most))
	}
}

// cells returns the width of a group's cells and the middle of the first, and
// whether halves hold the values. The outer cells reach a little beyond the values,
// of which few lie there.
func cells(x []float32, count float32) (width, middle float32, ok bool) {
	const beyond = 0.25 // of a cell, at both ends together
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
	const limit = 65504 // the largest half
	if low < -limit || high > limit || finite != 0 {
		return 0, 0, false
	}
	width = float32((high - low) / (count - beyond))
	return width, low + float32(width*((1-beyond)/2)), true
}

// line returns the scale and the least value with which codes stand for x with the
// smallest squared error; those given where all codes are one.
func line(c []uint32, x []float32, scale, least float32) (float32, float32) {
	var codes, squares int32
	var values, products float32
	c = c[:len(x)]
	for i, v := range x {
		code := int32(c[i])
		codes, squares = codes+code, squares+code*code
		values += v - least
		products += float32((v - least) * float32(code))
	}
	n := int32(len(x))
	determinant := n*squares - codes*codes
	if determinant <= 0 {
		return scale, least
	}
	inverse := 1 / float32(determinant)
	s := float32((float32(float32(n)*products) - float32(float32(codes)*values)) * inverse)
	o := float32((float32(float32(squares)*values) - float32(float32(codes)*products)) * inverse)
	if s <= 0 {
		return scale, least
	}
	return s, least + o
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
