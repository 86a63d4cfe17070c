package p16

import (
	"golang.org/x/sys/cpu"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Best returns the highest level that the CPU and the operating system support.
// Callers may use any lower one: all give the same bits.
func Best() quant.Level {
	x := &cpu.X86
	switch {
	case x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512VNNI && hasAVX2():
		return quant.AVX512
	case hasAVX2():
		return quant.AVX2
	}
	return quant.Portable
}

func hasAVX2() bool {
	return cpu.X86.HasAVX2 && cpu.X86.HasFMA && cpu.X86.HasF16C
}
