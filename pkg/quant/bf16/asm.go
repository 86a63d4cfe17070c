//go:build ignore

// Generates the vector kernels of BF16.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/internal/p16gen"
)

func main() {
	p16gen.Float{
		Name:  "BF16",
		Value: 2,
		Widen: func(src Mem, dst reg.VecVirtual) {
			VPMOVZXWD(src, dst)
			VPSLLD(Imm(16), dst, dst)
		},
	}.Generate()
}
