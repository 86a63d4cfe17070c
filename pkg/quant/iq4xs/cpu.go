package iq4xs

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/codebook"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// A packed super-block of 16 rows is their scales d and then 8 blocks of 32
// columns: 256 bytes of codes, interleaved (p16.LayBytes), and a byte for the
// scale of each lane. Those bytes, 6 bits in the file, make it 1.5 % larger than
// 16 super-blocks of the file.
const (
	packedScales = 16 * quant.Lanes
	packedBlock  = packedScales + quant.Lanes
	packedD      = 2 * quant.Lanes // bytes of the scales d, before the blocks
	packedSuper  = packedD + blocks*packedBlock
)

var portable = p16.Int8{GroupBytes: groupBytes, Unpack: unpack}

//go:generate go run asm_neon.go -out kernels_arm64.s -stubs kernels_arm64.go -pkg iq4xs

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

func groupBytes(cols int) int { return cols / blockElems * packedSuper }

func pack(dst, src []byte, rows, cols int) {
	p16.Pack(dst, src, rows, cols/blockElems*blockBytes, groupBytes(cols), lay)
}

func lay(group, row []byte, r int) {
	for len(row) >= blockBytes {
		copy(group[2*r:][:2], row)
		for b := range blocks {
			block := group[packedD+b*packedBlock:]
			p16.LayBytes(block, codes(row, b), r)
			block[packedScales+r] = byte(scale(row, b))
		}
		group, row = group[packedSuper:], row[blockBytes:]
	}
}

func unpack(lane *p16.Lane, group []byte, i, r int) {
	super := group[i/blocks*packedSuper:][:packedSuper]
	block := super[packedD+i%blocks*packedBlock:][:packedBlock]
	levels := codebook.IQ4()
	var codes [16]byte
	p16.TakeBytes(codes[:], block, r)
	for j, code := range codes {
		lane.W[j] = int16(levels[code&15])
		lane.W[j+16] = int16(levels[code>>4])
	}
	d := tensor.F16ToF32(binary.LittleEndian.Uint16(super[2*r:]))
	lane.D = d * float32(int8(block[packedScales+r]))
}
