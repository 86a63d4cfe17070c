package p16gen

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Shared describes super-blocks whose binary16 scales d (at Int8.Scales in the
// head) serve all their blocks:
//
//	acc = fma(isum, dw·da, acc)
//	acc = fma(−msum, mw·da, acc)    with Mins
//
// dw is d, or d·Block.Factor. msum is the exact product of the int16 pairs in
// Block.Mins with the sums of the activations, and mw is 16 binary16 values
// after d.
type Shared struct {
	Factor, Mins bool
}

// scales512 holds what a pass keeps in registers over a super-block.
type scales512 struct{ d, m reg.VecVirtual }

// keep loads the scales of a super-block. AVX2 has no registers to spare for
// them and reads them for each block.
func (f Int8) keep(k *kernel, scales Mem) (s scales512) {
	if f.Shared == nil || k.level != avx512 {
		return s
	}
	s.d = ZMM()
	VCVTPH2PS(scales, s.d)
	if f.Shared.Mins {
		s.m = ZMM()
		VCVTPH2PS(scales.Offset(2*quant.Lanes), s.m)
	}
	return s
}

// scale512 adds a block's sums to the accumulators.
func (f *Shared) scale512(b *Block, s scales512, acc []reg.VecVirtual) {
	dw := s.d
	if f.Factor {
		dw = ZMM()
		VMULPS(b.Factor[0], s.d, dw)
	}
	x := ZMM()
	for i, sum := range b.Sum {
		VCVTDQ2PS(sum, sum)
		VMULPS_BCST(b.scale(i), dw, x)
		VFMADD231PS(sum, x, acc[i])
		if f.Mins {
			Zero512(sum)
			VPDPWSSD_BCST(b.Sums(i), b.Mins[0], sum)
			VCVTDQ2PS(sum, sum)
			VMULPS_BCST(b.scale(i), s.m, x)
			VFNMADD231PS(sum, x, acc[i])
		}
	}
}

// scale256 is scale512 for half the lanes a cell.
func (f *Shared) scale256(b *Block, scales Mem, acc []reg.VecVirtual) {
	dw, mw, x, y := YMM(), YMM(), YMM(), YMM()
	b.EachHalf(func(half int) {
		at := scales.Offset(quant.Lanes * half)
		VCVTPH2PS(at, dw)
		if f.Factor {
			VMULPS(b.Factor[half], dw, dw)
		}
		if f.Mins {
			VCVTPH2PS(at.Offset(2*quant.Lanes), mw)
		}
	}, func(i int) {
		VBROADCASTSS(b.scale(i), x)
		VCVTDQ2PS(b.Sum[i], b.Sum[i])
		VMULPS(x, dw, y)
		VFMADD231PS(b.Sum[i], y, acc[i])
		if f.Mins {
			VMULPS(x, mw, y)
			VPBROADCASTD(b.Sums(i), x)
			VPMADDWD(b.Mins[b.Cells[i].Half], x, x)
			VCVTDQ2PS(x, x)
			VFNMADD231PS(x, y, acc[i])
		}
	})
}
