package iq4nl

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/codebook"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// A packed block of 16 rows is their codes, interleaved (p16.LayBytes), and
// their scales: as many bytes as 16 blocks have in the file.
const (
	packedScales = 16 * quant.Lanes
	packedBytes  = packedScales + 2*quant.Lanes
)

var portable = p16.Int8{GroupBytes: groupBytes, Unpack: unpack}

//go:generate go run asm_neon.go -out kernels_arm64.s -stubs kernels_arm64.go -pkg iq4nl

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
		p16.LayBytes(group, row[2:blockBytes], r)
		copy(group[packedScales+2*r:][:2], row)
		group, row = group[packedBytes:], row[blockBytes:]
	}
}

func unpack(lane *p16.Lane, group []byte, i, r int) {
	block := group[i*packedBytes:][:packedBytes]
	levels := codebook.IQ4()
	var codes [16]byte
	p16.TakeBytes(codes[:], block, r)
	for j, code := range codes {
		lane.W[j] = int16(levels[code&15])
		lane.W[j+16] = int16(levels[code>>4])
	}
	lane.D = tensor.F16ToF32(binary.LittleEndian.Uint16(block[packedScales+2*r:]))
}
