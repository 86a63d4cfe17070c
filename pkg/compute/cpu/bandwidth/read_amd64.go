package bandwidth

import (
	"unsafe"

	"github.com/shoal-llm/shoal/pkg/quant"
)

//go:generate go run asm.go -out kernels_amd64.s -stubs kernels_amd64.go -pkg bandwidth

// kernel returns the loads of a level.
func kernel(level quant.Level) func(p []byte) uint64 {
	switch level {
	case quant.AVX512, quant.AMX:
		return func(p []byte) uint64 { return avx512(unsafe.SliceData(p), len(p)) }
	case quant.AVX2:
		return func(p []byte) uint64 { return avx2(unsafe.SliceData(p), len(p)) }
	}
	return readWords
}
