package p16gen

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/kquant"
)

// wide returns the AMX kernel of the format.
func (f Int8) wide() *wide {
	w := &wide{name: f.Name, step: f.stepBytes(), blocks: max(1, f.Super), min: f.Min, halves: f.Halves}
	w.unpack = func() func(src, dst reg.GPVirtual) {
		unpack := f.Unpack()
		return func(src, dst reg.GPVirtual) {
			if f.Super == 0 {
				f.unpackBlock(unpack, Mem{Base: src}, Mem{Base: src}, dst)
				return
			}
			w.eachBlock(src, dst, f.Head, f.Block, func(block, to reg.GPVirtual) {
				f.unpackBlock(unpack, Mem{Base: src}, Mem{Base: block}, to)
			})
		}
	}
	return w
}

// eachBlock generates a loop over the blocks of a super-block.
func (f *wide) eachBlock(src, dst reg.GPVirtual, head, bytes int, each func(block, to reg.GPVirtual)) {
	block, to, left := GP64(), GP64(), GP64()
	LEAQ(Mem{Base: src, Disp: head}, block)
	MOVQ(dst, to)
	MOVQ(U32(uint32(f.blocks)), left)
	Label("unpackblock")
	each(block, to)
	ADDQ(U32(uint32(bytes)), block)
	ADDQ(U32(uint32(f.unpackedBytes())), to)
	down(left, "unpackblock")
}

// unpackBlock unpacks the block at w, whose scales are behind head.
func (f Int8) unpackBlock(unpack func(*Block, Put), head, w Mem, dst reg.GPVirtual) {
	b := &Block{w: w}
	unpack(b, putter(dst))
	d := ZMM()
	VCVTPH2PS(head.Offset(f.Scales), d)
	if f.Shared != nil && f.Shared.Factor {
		VMULPS(b.Factor[0], d, d)
	}
	VMOVAPS(d, Mem{Base: dst, Disp: unpackedScale})
	if f.Min {
		m := ZMM()
		VCVTPH2PS(head.Offset(f.Scales+2*quant.Lanes), m)
		VMOVAPS(m, Mem{Base: dst, Disp: unpackedMin})
	}
	if f.Halves {
		for i, s := range b.Halves {
			VMOVAPS(s, Mem{Base: dst, Disp: unpackedHalf + 4*quant.Lanes*i})
		}
	}
}

// putter returns what stores the vectors of a block.
func putter(dst reg.GPVirtual) Put {
	return func(v int, bytes reg.VecVirtual) { VMOVDQA64(bytes, Mem{Base: dst, Disp: 4 * quant.Lanes * v}) }
}

// wide returns the AMX kernel of the format.
func (f Super) wide() *wide {
	w := &wide{name: f.Name, step: kquant.HeadBytes + kquant.Blocks*f.Block, blocks: kquant.Blocks, min: true}
	w.unpack = func() func(src, dst reg.GPVirtual) {
		unpack := f.Unpack()
		return func(src, dst reg.GPVirtual) {
			head := superHead{end: GP64(), left: GP64()}
			LEAQ(Mem{Base: src, Disp: kquant.HeadBytes}, head.end)
			head.loadFactors512()
			MOVQ(I32(-kquant.Blocks*kquant.BlockScales), head.left)
			w.eachBlock(src, dst, kquant.HeadBytes, f.Block, func(block, to reg.GPVirtual) {
				unpack(&Block{w: Mem{Base: block}}, putter(to))
				head.storeWeights(to)
			})
		}
	}
	return w
}

// storeWeights writes dw and −mw of the block, and moves on to the next one.
func (s superHead) storeWeights(dst reg.GPVirtual) {
	w, minus := s.weights512(), ZMM()
	Zero512(minus)
	VSUBPS(w[1], minus, minus)
	VMOVAPS(w[0], Mem{Base: dst, Disp: unpackedScale})
	VMOVAPS(minus, Mem{Base: dst, Disp: unpackedMin})
	ADDQ(Imm(kquant.BlockScales), s.left)
}
