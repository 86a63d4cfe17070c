package vec

import "github.com/shoal-llm/shoal/pkg/quant"

//go:generate go run asm.go asm_rows.go asm_tiles.go asm_pages.go asm_softmax.go asm_codes.go asm_quantize.go -out kernels_amd64.s -stubs kernels_amd64.go -pkg vec

// kernelsOf returns the kernels of a level, nil if there are none.
func kernelsOf(level quant.Level) *kernels {
	switch level {
	case quant.AVX2:
		return &avx2
	case quant.AVX512, quant.AMX:
		return &avx512
	}
	return nil
}

var avx2 = kernels{
	sumSq:        avx2SumSq,
	norm:         avx2Norm,
	add:          avx2Add,
	exp:          avx2Exp,
	silu:         avx2SiLU,
	gelu:         avx2GELU,
	finish:       avx2Finish,
	quantize:     avx2Quantize,
	tile:         avx2Tile,
	rotateHalves: avx2RotateHalves,
	rotatePairs:  avx2RotatePairs,
	score:        []func(s, q, keys *float32, dim int){avx2Score1, avx2Score2, avx2Score3},
	values:       []func(o, e, values, rows *float32, dim int){avx2Values1, avx2Values2, avx2Values3},
	softmax:      avx2Softmax,
	halves:       avx2Halves,
	toHalves:     avx2ToHalves,
	codes:        [9]func(dst *float32, src, scales *byte, groups, blocks int){2: avx2Codes2, 3: avx2Codes3, 4: avx2Codes4, 8: avx2Codes8},
	columns:      avx2Columns,
}

// AVX-512 has kernels of its own where wider registers pay.
var avx512 = kernels{
	sumSq:        avx512SumSq,
	norm:         avx512Norm,
	add:          avx512Add,
	exp:          avx512Exp,
	silu:         avx512SiLU,
	gelu:         avx512GELU,
	finish:       avx2Finish,
	quantize:     avx2Quantize,
	tile:         avx2Tile,
	rotateHalves: avx2RotateHalves,
	rotatePairs:  avx2RotatePairs,
	scoreFirst: []func(s, q, keys *float32, dim, n int){
		avx512Score1, avx512Score2, avx512Score3, avx512Score4, avx512Score5, avx512Score6,
	},
	valuesFirst: []func(o, e, values, rows *float32, dim, n int){
		avx512Values1, avx512Values2, avx512Values3, avx512Values4, avx512Values5, avx512Values6,
	},
	softmax:  avx512Softmax,
	halves:   avx512Halves,
	toHalves: avx512ToHalves,
	codes:    [9]func(dst *float32, src, scales *byte, groups, blocks int){2: avx512Codes2, 3: avx512Codes3, 4: avx512Codes4, 8: avx512Codes8},
	columns:  avx512Columns,
}
