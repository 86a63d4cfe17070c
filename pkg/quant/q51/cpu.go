package q51

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// A packed block of 16 rows is their nibbles, interleaved (p16.LayBytes), their
// fifth bits (p16.LayFifths), their scales and their minimums: as many bytes as
// 16 blocks have in the file.
const (
	packedFifths = 16 * quant.Lanes
	packedScales = packedFifths + p16.Fifths
	packedMins   = packedScales + 2*quant.Lanes
	packedBytes  = packedMins + 2*quant.Lanes
)

var portable = p16.Int8{GroupBytes: groupBytes, Unpack: unpack, Min: true}

//go:generate go run asm_neon.go -out kernels_arm64.s -stubs kernels_arm64.go -pkg q51

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
	DecodeRow:  portable.DecodeRow,
	MatMul:     kernels.MatMul,
}

func groupBytes(cols int) int { return cols / blockElems * packedBytes }

func pack(dst, src []byte, rows, cols int) {
	p16.Pack(dst, src, rows, cols/blockElems*blockBytes, groupBytes(cols), lay)
}

func lay(group, row []byte, r int) {
	for len(row) >= blockBytes {
		p16.LayBytes(group, row[nibblesAt:blockBytes], r)
		p16.LayFifths(group[packedFifths:], binary.LittleEndian.Uint32(row[fifthsAt:]), r)
		copy(group[packedScales+2*r:][:2], row)
		copy(group[packedMins+2*r:][:2], row[minimumAt:])
		group, row = group[packedBytes:], row[blockBytes:]
	}
}

func unpack(lane *p16.Lane, group []byte, i, r int) {
	block := group[i*packedBytes:][:packedBytes]
	lane.W = p16.TakeFives(block, r)
	lane.D = tensor.F16ToF32(binary.LittleEndian.Uint16(block[packedScales+2*r:]))
	lane.M = tensor.F16ToF32(binary.LittleEndian.Uint16(block[packedMins+2*r:]))
}
