package q2k

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// A packed super-block of 16 rows is their d, their dmin and then 8 blocks of 32
// columns, as many bytes as 16 super-blocks have in the file. A block is
//
//	128 bytes of values, interleaved (p16.LayBytes): byte i of a lane holds, from
//	    bit 0, the values i, i+4, i+8 and i+12 (12 more each for i ≥ 4)
//	32 bytes of codes: those of values 0..15 and 16..31 of each lane
const (
	packedCodes = 8 * quant.Lanes
	packedBlock = packedCodes + 2*quant.Lanes
	packedDmin  = 2 * quant.Lanes
	packedHead  = 4 * quant.Lanes // bytes of d and dmin, before the blocks
	packedSuper = packedHead + blocks*packedBlock
)

// portable folds a sub-block's scale into its weights.
var portable = p16.Int8{GroupBytes: groupBytes, Unpack: unpack, SubMins: true}

//go:generate go run asm_neon.go -out kernels_arm64.s -stubs kernels_arm64.go -pkg q2k

var kernels = p16.Kernels{
	Act:        quant.ActInt8,
	GroupBytes: groupBytes,
	Step:       blockElems,
	Portable:   portable.MatMul,
	AVX2:       avx2,
	AVX512:     avx512,
	AVX512Wide: avx512Wide,
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
		copy(group[packedDmin+2*r:][:2], row[dminAt:])
		for b := range blocks {
			q := values(row, b)
			block := group[packedHead+b*packedBlock:]
			layValues(block, &q, r)
			copy(block[packedCodes+2*r:][:2], row[2*b:])
		}
		group, row = group[packedSuper:], row[blockBytes:]
	}
}

func layValues(block []byte, q *[quant.Block]byte, r int) {
	at := func(c int) uint32 { return binary.LittleEndian.Uint32(q[c:]) }
	var packed [8]byte
	for i := 0; i < len(packed); i += 4 {
		c := 4 * i
		binary.LittleEndian.PutUint32(packed[i:], at(c)|at(c+4)<<2|at(c+8)<<4|at(c+12)<<6)
	}
	p16.LayBytes(block, packed[:], r)
}

// take returns the 32 values of lane r of a packed block.
func take(block []byte, r int) (q [quant.Block]byte) {
	var packed [8]byte
	p16.TakeBytes(packed[:], block, r)
	for i := range q {
		q[i] = packed[i/16*4+i%4] >> (i % 16 / 4 * 2) & 3
	}
	return q
}

// located is one row of one block of a group.
type located struct {
	q       [quant.Block]byte
	codes   [2]byte
	d, dmin float32
}

func locate(group []byte, i, r int) located {
	super := group[i/blocks*packedSuper:][:packedSuper]
	block := super[packedHead+i%blocks*packedBlock:][:packedBlock]
	return located{
		q:     take(block, r),
		codes: [2]byte(block[packedCodes+2*r:]),
		d:     tensor.F16ToF32(binary.LittleEndian.Uint16(super[2*r:])),
		dmin:  tensor.F16ToF32(binary.LittleEndian.Uint16(super[packedDmin+2*r:])),
	}
}

func unpack(lane *p16.Lane, group []byte, i, r int) {
	b := locate(group, i, r)
	lane.D, lane.M = b.d, b.dmin
	for half, code := range b.codes {
		lane.Mins[half] = int16(code >> 4)
	}
	for j, q := range b.q {
		lane.W[j] = int16(b.codes[j/16]&15) * int16(q)
	}
}

func decodeRow(dst []float32, group []byte, r, cols int) {
	for i := range cols / quant.Block {
		b := locate(group, i, r)
		widen(dst[i*quant.Block:][:quant.Block], &b.q, b.d, b.dmin, b.codes)
	}
}
