package q5k

import (
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/kquant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// A packed super-block of 16 rows is their heads and then 8 blocks of 32
// columns: nibbles, interleaved (p16.LayBytes), and fifth bits (p16.LayFifths).
// The codes in the head are widened to bytes: 2.3 percent more than 16
// super-blocks have in the file.
const (
	packedFifths = 16 * quant.Lanes
	packedBlock  = packedFifths + p16.Fifths
	packedSuper  = kquant.HeadBytes + kquant.Blocks*packedBlock
)

var portable = p16.Int8{GroupBytes: groupBytes, Unpack: unpack, Min: true}

//go:generate go run asm_neon.go -out kernels_arm64.s -stubs kernels_arm64.go -pkg q5k

var kernels = p16.Kernels{
	Act:        quant.ActInt8,
	GroupBytes: groupBytes,
	Step:       kquant.Elems,
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

func groupBytes(cols int) int { return cols / kquant.Elems * packedSuper }

func pack(dst, src []byte, rows, cols int) {
	p16.Pack(dst, src, rows, cols/kquant.Elems*blockBytes, groupBytes(cols), lay)
}

func lay(group, row []byte, r int) {
	for len(row) >= blockBytes {
		kquant.LayHead(group, row, r)
		for i := range kquant.Blocks {
			block := group[kquant.HeadBytes+i*packedBlock:]
			nibbles := kquant.Nibbles(row[nibblesAt:], i)
			p16.LayBytes(block, nibbles[:], r)
			p16.LayFifths(block[packedFifths:], fifths(row, i), r)
		}
		group, row = group[packedSuper:], row[blockBytes:]
	}
}

func unpack(lane *p16.Lane, group []byte, i, r int) {
	super := group[i/kquant.Blocks*packedSuper:][:packedSuper]
	i %= kquant.Blocks
	kquant.TakeScales(lane, super, i, r)
	lane.W = p16.TakeFives(super[kquant.HeadBytes+i*packedBlock:], r)
}
