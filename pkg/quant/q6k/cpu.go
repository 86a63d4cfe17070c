package q6k

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// A packed super-block of 16 rows is their scales d and then 8 blocks of 32
// columns, as many bytes as 16 super-blocks have in the file. A block is
//
//	256 bytes of low nibbles, laid as Q4_0 lays them: byte i of a lane holds
//	    value i (low) and value i+16 (high)
//	128 bytes of high bit pairs: byte i of a lane holds, from bit 0, those of
//	    the values i+4, i+20, i, i+16 (8 more for i ≥ 4)
//	32 bytes of scales: those of values 0..15 and 16..31 of each lane
//
// so that one shift and one mask bring a pair above its nibble.
const (
	packedHigh   = 16 * quant.Lanes
	packedScales = packedHigh + 8*quant.Lanes
	packedBlock  = packedScales + 2*quant.Lanes
	packedSuper  = packedD + 8*packedBlock
	packedD      = 2 * quant.Lanes // bytes of the scales d, before the blocks
	blocks       = blockElems / quant.Block
)

// portable folds a sub-block's scale into its weights: s·(q−32) fits int16.
var portable = p16.Int8{GroupBytes: groupBytes, Unpack: unpack}

//go:generate go run asm_neon.go -out kernels_arm64.s -stubs kernels_arm64.go -pkg q6k

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
		for i := range blocks {
			q := values(row, i)
			block := group[packedD+i*packedBlock:]
			layNibbles(block, &q, r)
			layPairs(block[packedHigh:], &q, r)
			copy(block[packedScales+2*r:][:2], row[scalesAt+2*i:])
		}
		group, row = group[packedSuper:], row[blockBytes:]
	}
}

// values returns the 32 values of block i of a super-block, offset by 32. It
// and the two functions below it work on 8 or 4 bytes at a time.
func values(super []byte, i int) (q [quant.Block]byte) {
	low := super[i/4*64+i%2*32:][:quant.Block]
	high := super[highAt+i/4*32:][:quant.Block]
	nibble, pair := uint(i%4/2*4), uint(i%4*2)
	for j := 0; j < quant.Block; j += 8 {
		l := binary.LittleEndian.Uint64(low[j:]) >> nibble & 0x0f0f0f0f0f0f0f0f
		h := binary.LittleEndian.Uint64(high[j:]) >> pair & 0x0303030303030303
		binary.LittleEndian.PutUint64(q[j:], l|h<<4)
	}
	return q
}

func layNibbles(block []byte, q *[quant.Block]byte, r int) {
	var nibbles [16]byte
	for i := 0; i < len(nibbles); i += 8 {
		low := binary.LittleEndian.Uint64(q[i:]) & 0x0f0f0f0f0f0f0f0f
		high := binary.LittleEndian.Uint64(q[i+16:]) & 0x0f0f0f0f0f0f0f0f
		binary.LittleEndian.PutUint64(nibbles[i:], low|high<<4)
	}
	p16.LayBytes(block, nibbles[:], r)
}

func layPairs(high []byte, q *[quant.Block]byte, r int) {
	at := func(c int) uint32 { return binary.LittleEndian.Uint32(q[c:]) >> 4 & 0x03030303 }
	var pairs [8]byte
	for i := 0; i < len(pairs); i += 4 {
		c := 2 * i
		binary.LittleEndian.PutUint32(pairs[i:], at(c+4)|at(c+20)<<2|at(c)<<4|at(c+16)<<6)
	}
	p16.LayBytes(high, pairs[:], r)
}

// take returns the 32 values of lane r of a packed block, without their offset.
func take(block []byte, r int) (q [quant.Block]int16) {
	var nibbles [16]byte
	var pairs [8]byte
	p16.TakeBytes(nibbles[:], block, r)
	p16.TakeBytes(pairs[:], block[packedHigh:], r)
	for i, n := range nibbles {
		high := pairs[i/8*4+i%4] >> (4 - i/4%2*4)
		q[i] = int16(n&15|high&3<<4) - 32
		q[i+16] = int16(n>>4|high>>2&3<<4) - 32
	}
	return q
}

// locate returns block i of a group, its two scales and its d for lane r.
func locate(group []byte, i, r int) (block []byte, scales [2]int8, d float32) {
	super := group[i/blocks*packedSuper:][:packedSuper]
	block = super[packedD+i%blocks*packedBlock:][:packedBlock]
	at := packedScales + 2*r
	scales = [2]int8{int8(block[at]), int8(block[at+1])}
	return block, scales, tensor.F16ToF32(binary.LittleEndian.Uint16(super[2*r:]))
}

func unpack(lane *p16.Lane, group []byte, i, r int) {
	block, scales, d := locate(group, i, r)
	lane.D = d
	for j, q := range take(block, r) {
		lane.W[j] = int16(scales[j/16]) * q
	}
}

func decodeRow(dst []float32, group []byte, r, cols int) {
	for i := range cols / quant.Block {
		block, scales, d := locate(group, i, r)
		part := dst[i*quant.Block:][:quant.Block]
		for j, q := range take(block, r) {
			part[j] = float32(float32(d*float32(scales[j/16])) * float32(q))
		}
	}
}
