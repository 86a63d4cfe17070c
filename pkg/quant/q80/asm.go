//go:build ignore

// Generates the vector kernels of Q8_0.
package main

import (
	. "github.com/mmcloughlin/avo/build"

	"github.com/shoal-llm/shoal/internal/p16gen"
)

func main() {
	p16gen.Int8{
		Name:   "Q8_0",
		Block:  544,
		Scales: 512,
		Dot512: dot512,
		Dot256: dot256,
		Unpack: p16gen.UnpackBytes,
	}.Generate()
}

// dot512 multiplies the weights with their offset of 128 and begins with
// −128·Σq.
func dot512() func(*p16gen.Block) {
	offset := p16gen.Constant512(0xff80ff80) // −128, −128
	return func(b *p16gen.Block) {
		for i, sum := range b.Sum {
			p16gen.Zero512(sum)
			VPDPWSSD_BCST(b.Sums(i), offset, sum)
		}
		dots := p16gen.NewDots512(b, 4)
		for g := range 8 {
			w := ZMM()
			VMOVDQU64(b.Weights(64*g), w)
			dots.Add(w, 4*g)
		}
		dots.Join()
	}
}

// dot256 multiplies |w| by the activation with the sign of w: 128·127·2 =
// 32,512 fits int16, also for w = −128, because no activation is −128.
func dot256() func(*p16gen.Block) {
	offset, ones := p16gen.Constant256(0x80808080), p16gen.Constant256(0x00010001)
	return func(b *p16gen.Block) {
		w, abs, q := YMM(), YMM(), YMM()
		for g := range 8 {
			b.EachHalf(func(half int) {
				VPXOR(b.Weights(64*g+32*half), offset, w)
				VPABSB(w, abs)
			}, func(i int) {
				VPBROADCASTD(b.Act(i, 4*g), q)
				VPSIGNB(w, q, q)
				VPMADDUBSW(q, abs, q)
				if g == 0 {
					VPMADDWD(ones, q, b.Sum[i])
					return
				}
				VPMADDWD(ones, q, q)
				VPADDD(q, b.Sum[i], b.Sum[i])
			})
		}
	}
}
