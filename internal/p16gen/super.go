package p16gen

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/kquant"
)

// Super describes a K-quant with minimums: packed super-blocks of
// kquant.Blocks blocks behind a head that holds the scales of all of them
// (kquant.LayHead). n counts super-blocks.
type Super struct {
	Name  string
	Block int // bytes of a packed block: 16 rows of 32 columns, without scales

	// Dot512, Dot256 and Unpack are those of Int8.
	Dot512, Dot256 func() func(*Block)
	Unpack         func() func(*Block, Put)
}

// Generate writes the kernels of all levels and tile widths.
func (f Super) Generate() {
	for _, T := range quant.TileTokens {
		f.generate(avx2, T, f.Dot256)
	}
	for _, T := range quant.TileTokens {
		f.generate(avx512, T, f.Dot512)
	}
	f.wide().generate()
	Generate()
}

func (f Super) generate(l level, T int, setup func() func(*Block)) {
	k := open(l, f.Name, T)
	dot := setup()
	if T == 1 {
		cells := (Int8{}).passes(l, T)[0]
		k.pairs(kquant.HeadBytes+kquant.Blocks*f.Block, func(label string, p *pair) { f.pass(k, label, cells, p, dot) })
		return
	}
	Label("group")
	for i, cells := range (Int8{}).passes(l, T) {
		f.pass(k, fmt.Sprint("pass", i), cells, nil, dot)
	}
	MOVQ(k.wp, k.w)
	ADDQ(Imm(4*quant.Lanes), k.out)
	down(k.groups, "group")
	k.close()
}

// pass walks the super-blocks of one group, or of a pair, for some cells and
// stores their results.
func (f Super) pass(k *kernel, label string, cells []Cell, p *pair, dot func(*Block)) {
	acc := k.accumulators(len(cells), p)
	MOVQ(k.w, k.wp)
	MOVQ(k.tile, k.ap)
	MOVQ(k.n, k.count)
	left := GP64()
	heads := make([]superHead, len(acc))
	for g := range heads {
		heads[g] = superHead{end: GP64(), left: left}
	}
	Label(label)
	for g := range heads {
		if k.T == 1 {
			prefetch(p.of(g, Mem{Base: k.wp}), kquant.HeadBytes)
		}
		LEAQ(p.of(g, Mem{Base: k.wp, Disp: kquant.HeadBytes}), heads[g].end)
		if k.level == avx512 {
			heads[g].loadFactors512()
		}
	}
	ADDQ(U32(kquant.HeadBytes), k.wp)
	MOVQ(I32(-kquant.Blocks*kquant.BlockScales), left)
	Label(label + "block")
	for g := range heads {
		b := &Block{Cells: cells, Sum: k.vecs(len(cells)), w: p.of(g, Mem{Base: k.wp}), a: k.ap, T: k.T}
		if k.T == 1 {
			prefetch(b.w, f.Block)
		}
		dot(b)
		if k.level == avx512 {
			heads[g].scale512(b, acc[g])
		} else {
			heads[g].scale256(b, acc[g])
		}
	}
	ADDQ(U32(uint32(f.Block)), k.wp)
	ADDQ(U32(uint32(quant.ActInt8.ActBytes(k.T, quant.Block))), k.ap)
	ADDQ(Imm(kquant.BlockScales), left)
	JNZ(LabelRef(label + "block"))
	down(k.count, label)
	k.store(cells, acc, p)
}

// superHead addresses the scales in the head of a super-block.
type superHead struct {
	end  reg.GPVirtual // of the head
	left reg.GPVirtual // −(bytes of block scales that have not been used)

	factors [2]reg.VecVirtual // AVX-512: d and dmin
}

// loadFactors512 widens the factors, once for all blocks.
func (s *superHead) loadFactors512() {
	for i := range s.factors {
		s.factors[i] = ZMM()
		VCVTPH2PS(s.factor(i), s.factors[i])
	}
}

// factor addresses the 16 binary16 factors, of the scales or of the minimums.
func (s superHead) factor(minimum int) Mem {
	return Mem{Base: s.end, Disp: 2*quant.Lanes*minimum - kquant.HeadBytes}
}

// codes addresses the 16 byte codes of the block, of the scales or of the
// minimums.
func (s superHead) codes(minimum int) Mem {
	return Mem{Base: s.end, Index: s.left, Scale: 1, Disp: quant.Lanes * minimum}
}

// scale512 adds the block's sums to the accumulators:
// acc = fma(isum, dw·da, acc), then acc = fma(−mw, ds, acc), where dw and mw, a
// factor times a code, are exact.
func (s superHead) scale512(b *Block, acc []reg.VecVirtual) {
	w := s.weights512()
	for i, sum := range b.Sum {
		d := ZMM()
		VCVTDQ2PS(sum, sum)
		VMULPS_BCST(b.scale(i), w[0], d)
		VFMADD231PS(sum, d, acc[i])
		VFNMADD231PS_BCST(b.scaleSum(i), w[1], acc[i])
	}
}

// weights512 returns dw and mw of the block.
func (s superHead) weights512() (w [2]reg.VecVirtual) {
	for i := range w {
		w[i] = ZMM()
		VPMOVZXBD(s.codes(i), w[i])
		VCVTDQ2PS(w[i], w[i])
		VMULPS(s.factors[i], w[i], w[i])
	}
	return w
}

// scale256 is scale512 for half the lanes a cell.
func (s superHead) scale256(b *Block, acc []reg.VecVirtual) {
	var w [2]reg.VecVirtual
	factor, x := YMM(), YMM()
	b.EachHalf(func(half int) {
		for i := range w {
			w[i] = YMM()
			VPMOVZXBD(s.codes(i).Offset(quant.Lanes/2*half), w[i])
			VCVTDQ2PS(w[i], w[i])
			VCVTPH2PS(s.factor(i).Offset(quant.Lanes*half), factor)
			VMULPS(factor, w[i], w[i])
		}
	}, func(i int) {
		VBROADCASTSS(b.scale(i), x)
		VMULPS(x, w[0], x)
		VCVTDQ2PS(b.Sum[i], b.Sum[i])
		VFMADD231PS(b.Sum[i], x, acc[i])
		VBROADCASTSS(b.scaleSum(i), x)
		VFNMADD231PS(x, w[1], acc[i])
	})
}
