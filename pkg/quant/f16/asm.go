//go:build ignore

// Generates the vector kernels of F16.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/internal/p16gen"
)

func main() {
	p16gen.Float{
		Name:  "F16",
		Value: 2,
		Widen: func(src Mem, dst reg.VecVirtual) { VCVTPH2PS(src, dst) },
	}.Generate()
}
