//go:build !amd64

package f32

import "github.com/shoal-llm/shoal/pkg/quant/p16"

// The instruction set of another architecture.
var avx512Wide p16.Asm
