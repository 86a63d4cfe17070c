//go:build ignore

// Generates the vector kernels of F32.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/internal/p16gen"
)

func main() {
	p16gen.Float{
		Name:  "F32",
		Value: 4,
		Widen: func(src Mem, dst reg.VecVirtual) { VMOVUPS(src, dst) },
	}.Generate()
}
