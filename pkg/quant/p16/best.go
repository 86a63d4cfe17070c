package p16

import (
	"golang.org/x/sys/cpu"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Levels returns the levels that the CPU and the operating system support,
// portable first, the fastest last. All give the same bits. Where the CPU has AMX,
// it asks the operating system to let the process use it.
func Levels() []quant.Level {
	levels := []quant.Level{quant.Portable}
	x := &cpu.X86
	if x.HasAVX2 && x.HasFMA && x.HasF16C {
		levels = append(levels, quant.AVX2)
		if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512VNNI {
			levels = append(levels, quant.AVX512)
			if x.HasAVX512GFNI && x.HasAMXTile && x.HasAMXInt8 && permitTiles() {
				levels = append(levels, quant.AMX)
			}
		}
	}
	if cpu.ARM64.HasASIMDDP {
		levels = append(levels, quant.NEON)
	}
	return levels
}

// Best returns the last of Levels. Callers may use any other of them.
func Best() quant.Level {
	levels := Levels()
	return levels[len(levels)-1]
}
