package q2k

import "github.com/shoal-llm/shoal/pkg/quant/p16"

//go:generate go run asm.go -out kernels_amd64.s -stubs kernels_amd64.go -pkg q2k

var (
	avx2       = p16.Widths{avx2T12, avx2T8, avx2T4, avx2T1}
	avx512     = p16.Widths{avx512T12, avx512T8, avx512T4, avx512T1}
	avx512Wide = avx512T16
)

// The instruction set of another architecture.
var neon p16.Widths
