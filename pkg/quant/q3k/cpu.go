package q3k

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// A packed super-block of 16 rows is their scales d and then 8 blocks of 32
// columns. A block is
//
//	192 bytes of values, interleaved (p16.LayBytes): three vectors, in which each
//	    byte holds two values and two bits more (layValues)
//	32 bytes of scales: those of values 0..15 and 16..31 of each lane
//
// Those scales, 6 bits each in the file, make it 3.6 % larger than 16
// super-blocks of the file.
const (
	packedScales = 12 * quant.Lanes
	packedBlock  = packedScales + 2*quant.Lanes
	packedD      = 2 * quant.Lanes // bytes of the scales d, before the blocks
	packedSuper  = packedD + blocks*packedBlock
)

// portable folds a sub-block's scale into its weights.
var portable = p16.Int8{GroupBytes: groupBytes, Unpack: unpack}

//go:generate go run asm_neon.go -out kernels_arm64.s -stubs kernels_arm64.go -pkg q3k

var kernels = p16.Kernels{
	Act:        quant.ActInt8,
	GroupBytes: groupBytes,
	Step:       blockElems,
	Portable:   portable.MatMul,
	AVX2:       avx2,
	AVX512:     avx512,
	AMX:        amx,
	NEON:       neon,
}

var cpuKernels = quant.CPU{
	Act:        quant.ActInt8,
	GroupBytes: groupBytes,
	Pack:       pack,
	DecodeRow:  decodeRow,
	MatMul:     kernels.MatMul,
}

func groupBytes(cols int) int { return cols / blockElems * packedSuper }

func pack(dst, src []byte, rows, cols int) {
	p16.Pack(dst, src, rows, cols/blockElems*blockBytes, groupBytes(cols), lay)
}

func lay(group, row []byte, r int) {
	for len(row) >= blockBytes {
		copy(group[2*r:][:2], row[dAt:])
		for b := range blocks {
			q := values(row, b)
			block := group[packedD+b*packedBlock:]
			layValues(block, &q, r)
			for i, s := range scales(row, b) {
				block[packedScales+2*r+i] = byte(s)
			}
		}
		group, row = group[packedSuper:], row[blockBytes:]
	}
}

// layValues puts 24 columns at bits 0 and 3 of the bytes of three vectors and
// cuts the other 8 into the bits above: their low pairs into the first two
// vectors, their high bits into the third.
//
//	vector   bits 0..2   bits 3..5   bit 6          bit 7
//	0        16..19      20..23      8..11, low pair
//	1        24..27      28..31      12..15, low pair
//	2        0..3        4..7        8..11, high    12..15, high
func layValues(block []byte, q *[quant.Block]byte, r int) {
	at := func(c int) uint32 { return binary.LittleEndian.Uint32(q[c:]) }
	low := func(c int) uint32 { return at(c) & 0x03030303 }
	high := func(c int) uint32 { return at(c) >> 2 & 0x01010101 }
	var packed [12]byte
	binary.LittleEndian.PutUint32(packed[0:], at(16)|at(20)<<3|low(8)<<6)
	binary.LittleEndian.PutUint32(packed[4:], at(24)|at(28)<<3|low(12)<<6)
	binary.LittleEndian.PutUint32(packed[8:], at(0)|at(4)<<3|high(8)<<6|high(12)<<7)
	p16.LayBytes(block, packed[:], r)
}

// take returns the 32 values of lane r of a packed block, offset by 4.
func take(block []byte, r int) (q [quant.Block]byte) {
	var packed [12]byte
	p16.TakeBytes(packed[:], block, r)
	for j := range 4 {
		v := [3]byte{packed[j], packed[4+j], packed[8+j]}
		q[j], q[4+j] = v[2]&7, v[2]>>3&7
		q[8+j], q[12+j] = v[0]>>6|v[2]>>6&1<<2, v[1]>>6|v[2]>>7<<2
		q[16+j], q[20+j] = v[0]&7, v[0]>>3&7
		q[24+j], q[28+j] = v[1]&7, v[1]>>3&7
	}
	return q
}

// locate returns the values, the scales and d of row r of block i of a group.
func locate(group []byte, i, r int) (q [quant.Block]byte, s [2]int8, d float32) {
	super := group[i/blocks*packedSuper:][:packedSuper]
	block := super[packedD+i%blocks*packedBlock:][:packedBlock]
	at := packedScales + 2*r
	s = [2]int8{int8(block[at]), int8(block[at+1])}
	return take(block, r), s, tensor.F16ToF32(binary.LittleEndian.Uint16(super[2*r:]))
}

func unpack(lane *p16.Lane, group []byte, i, r int) {
	q, s, d := locate(group, i, r)
	lane.D = d
	for j, v := range q {
		lane.W[j] = int16(s[j/16]) * (int16(v) - 4)
	}
}

func decodeRow(dst []float32, group []byte, r, cols int) {
	for i := range cols / quant.Block {
		q, s, d := locate(group, i, r)
		widen(dst[i*quant.Block:][:quant.Block], &q, d, s)
	}
}
