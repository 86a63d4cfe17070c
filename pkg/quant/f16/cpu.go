package f16

import (
	"encoding/binary"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// A packed group holds 16 binary16 values for each column.
const (
	valueBytes = 2
	column     = valueBytes * quant.Lanes
)

var portable = p16.Float{GroupBytes: groupBytes, Column: widen}

//go:generate go run asm_neon.go -out kernels_arm64.s -stubs kernels_arm64.go -pkg f16

var kernels = p16.Kernels{
	Act:        quant.ActF32,
	GroupBytes: groupBytes,
	Step:       1,
	Portable:   portable.MatMul,
	AVX2:       avx2,
	AVX512:     avx512,
	AVX512Wide: avx512Wide,
	NEON:       neon,
}

var cpuKernels = quant.CPU{
	Act:        quant.ActF32,
	GroupBytes: groupBytes,
	Pack:       pack,
	DecodeRow:  decodeRow,
	MatMul:     kernels.MatMul,
}

func groupBytes(cols int) int { return cols * column }

func pack(dst, src []byte, rows, cols int) {
	p16.Pack(dst, src, rows, cols*valueBytes, groupBytes(cols), lay)
}

func lay(group, row []byte, r int) {
	at := valueBytes * r
	for i := 0; i+valueBytes <= len(row); i += valueBytes {
		copy(group[at:at+valueBytes], row[i:])
		at += column
	}
}

func widen(w *[quant.Lanes]float32, group []byte, c int) {
	values := group[c*column:][:column]
	for r := range w {
		w[r] = tensor.F16ToF32(binary.LittleEndian.Uint16(values[valueBytes*r:]))
	}
}

func decodeRow(dst []float32, group []byte, r, cols int) {
	for c := range dst[:cols] {
		dst[c] = tensor.F16ToF32(binary.LittleEndian.Uint16(group[c*column+valueBytes*r:]))
	}
}
