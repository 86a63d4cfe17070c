package q4k

import (
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/kquant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// A packed super-block of 16 rows is their heads and then 8 blocks of 32
// columns: nibbles, interleaved (p16.LayBytes). The codes in the head are widened
// to bytes: 2.8 percent more than 16 super-blocks have in the file.
const (
	packedBlock = 16 * quant.Lanes
	packedSuper = kquant.HeadBytes + kquant.Blocks*packedBlock
)

var portable = p16.Int8{GroupBytes: groupBytes, Unpack: unpack, Min: true}

//go:generate go run asm_neon.go -out kernels_arm64.s -stubs kernels_arm64.go -pkg q4k

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
			nibbles := kquant.Nibbles(row[nibblesAt:], i)
			p16.LayBytes(group[kquant.HeadBytes+i*packedBlock:], nibbles[:], r)
		}
		group, row = group[packedSuper:], row[blockBytes:]
	}
}

func unpack(lane *p16.Lane, group []byte, i, r int) {
	super := group[i/kquant.Blocks*packedSuper:][:packedSuper]
	i %= kquant.Blocks
	kquant.TakeScales(lane, super, i, r)
	var nibbles [16]byte
	p16.TakeBytes(nibbles[:], super[kquant.HeadBytes+i*packedBlock:], r)
	for j, q := range nibbles {
		lane.W[j] = int16(q & 15)
		lane.W[j+16] = int16(q >> 4)
	}
}
