package p16gen

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
	"github.com/mmcloughlin/avo/x86"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Int8 describes a format that takes int8 activations.
type Int8 struct {
	Name  string
	Block int // bytes of a packed block: 16 rows of 32 columns

	// Super is the number of blocks that share their scales, which then lie in
	// Head bytes before those blocks; n counts super-blocks. 0: each block has
	// its own.
	Super, Head int

	Scales int  // offset of 16 binary16 scales, in the block or in the head
	Min    bool // 16 binary16 minimums follow the scales

	// Shared says how blocks of a super-block take part in its scales; nil: its
	// scales are theirs.
	Shared *Shared

	Tokens512, Tokens256 int // most tokens of one pass; 0: 12 and 4

	// Dot512 and Dot256 load constants and return the code of one block, which
	// leaves the exact integer dot product of each cell in Block.Sum.
	Dot512, Dot256 func() func(*Block)

	// Unpack loads constants and returns the code that unpacks one block, for AMX.
	// Halves says that it leaves float32 scales of the halves of the block in
	// Block.Halves. Without it, wide tiles have an AVX-512 kernel.
	Unpack func() func(*Block, Put)
	Halves bool
}

// Block is a block of weights and activations inside a pass.
type Block struct {
	Cells []Cell
	Sum   []reg.VecVirtual // [cell] int32 lanes, written by the format

	// Factor and Mins are written by formats that have them (Shared): for each
	// half of the lanes with AVX2, for all with AVX-512.
	Factor [2]reg.VecVirtual // float32
	Mins   [2]reg.VecVirtual // int16 pairs, for columns 0..15 and 16..31
	Halves [2]reg.VecVirtual // float32 scales of columns 0..15 and 16..31 (AMX)

	w Mem // the packed bytes
	a reg.Register
	T int
}

// Weights addresses the packed bytes of the block.
func (b *Block) Weights(at int) Mem { return b.w.Offset(at) }

// Act addresses the int8 values of cell i from column c on.
func (b *Block) Act(i, c int) Mem { return b.act(quant.Block*b.Cells[i].Token + c) }

// Start addresses −8·Σq of cell i (int32).
func (b *Block) Start(i int) Mem { return b.token(40, i) }

// Sums addresses Σq of columns 0..15 and 16..31 of cell i (2 int16).
func (b *Block) Sums(i int) Mem { return b.token(44, i) }

// EachHalf calls load for each half of the lanes that the block has cells for
// (AVX2), and cell for those cells.
func (b *Block) EachHalf(load, cell func(int)) {
	for half := range avx2.halves() {
		loaded := false
		for i, c := range b.Cells {
			if c.Half != half {
				continue
			}
			if !loaded {
				load(half)
				loaded = true
			}
			cell(i)
		}
	}
}

func (b *Block) scale(i int) Mem    { return b.token(32, i) }
func (b *Block) scaleSum(i int) Mem { return b.token(36, i) }

// token addresses the 4 bytes of cell i's token in the array that lies at bytes
// per token from the start of the block.
func (b *Block) token(bytes, i int) Mem { return b.act(bytes*b.T + 4*b.Cells[i].Token) }

func (b *Block) act(at int) Mem { return Mem{Base: b.a, Disp: at} }

// Generate writes the kernels of all levels and tile widths.
func (f Int8) Generate() {
	for _, T := range quant.TileTokens {
		f.generate(avx2, T, f.Dot256)
	}
	for _, T := range quant.TileTokens {
		f.generate(avx512, T, f.Dot512)
	}
	if f.Unpack == nil {
		f.generate(avx512, quant.WideTile, f.Dot512)
	} else {
		f.wide().generate()
	}
	Generate()
}

func (f Int8) generate(l level, T int, setup func() func(*Block)) {
	k := open(l, f.Name, T)
	dot := setup()
	if T == 1 {
		cells := f.passes(l, T)[0]
		k.pairs(f.stepBytes(), func(label string, p *pair) { f.pass(k, label, cells, p, dot) })
		return
	}
	Label("group")
	for i, cells := range f.passes(l, T) {
		f.pass(k, fmt.Sprint("pass", i), cells, nil, dot)
	}
	MOVQ(k.wp, k.w)
	ADDQ(Imm(4*quant.Lanes), k.out)
	down(k.groups, "group")
	k.close()
}

// passes gives a register to each cell, beside the format's own needs.
func (f Int8) passes(l level, T int) [][]Cell {
	switch {
	case l == avx512 && T == quant.WideTile:
		return passes(l, T, min(quant.WideTile/2, orElse(f.Tokens512, 8)), 1, 1)
	case l == avx512:
		return passes(l, T, orElse(f.Tokens512, 12), 1, 1)
	case T == 1:
		return passes(l, T, 1, 2, 1)
	}
	return passes(l, T, orElse(f.Tokens256, 4), 1, 1)
}

func orElse(n, other int) int {
	if n == 0 {
		return other
	}
	return n
}

// stepBytes returns the packed bytes of what n counts.
func (f Int8) stepBytes() int { return f.Head + max(1, f.Super)*f.Block }

// pass walks the blocks of one group, or of a pair, for some cells and stores
// their results.
func (f Int8) pass(k *kernel, label string, cells []Cell, p *pair, dot func(*Block)) {
	acc := k.accumulators(len(cells), p)
	MOVQ(k.w, k.wp)
	MOVQ(k.tile, k.ap)
	MOVQ(k.n, k.count)
	head := k.wp
	inner := GP64()
	kept := make([]scales512, len(acc))
	Label(label)
	if f.Super > 0 {
		head = GP64()
		MOVQ(k.wp, head)
		ADDQ(Imm(uint64(f.Head)), k.wp)
		MOVQ(U32(uint32(f.Super)), inner)
		for g := range acc {
			kept[g] = f.keep(k, p.of(g, Mem{Base: head, Disp: f.Scales}))
		}
		Label(label + "block")
	}
	for g := range acc {
		b := &Block{Cells: cells, Sum: k.vecs(len(cells)), w: p.of(g, Mem{Base: k.wp}), a: k.ap, T: k.T}
		if k.T == 1 {
			prefetch(b.w, f.Block)
		}
		dot(b)
		f.scale(k, b, p.of(g, Mem{Base: head, Disp: f.Scales}), kept[g], acc[g])
	}
	ADDQ(U32(uint32(f.Block)), k.wp)
	ADDQ(U32(uint32(quant.ActInt8.ActBytes(k.T, quant.Block))), k.ap)
	if f.Super > 0 {
		down(inner, label+"block")
	}
	down(k.count, label)
	k.store(cells, acc, p)
}

// scale adds the block's sums to the accumulators.
func (f Int8) scale(k *kernel, b *Block, scales Mem, kept scales512, acc []reg.VecVirtual) {
	switch {
	case f.Shared != nil && k.level == avx512:
		f.Shared.scale512(b, kept, acc)
	case f.Shared != nil:
		f.Shared.scale256(b, scales, acc)
	case k.level == avx512:
		f.scale512(b, scales, acc)
	default:
		f.scale256(b, scales, acc)
	}
}

// scale512 adds the block's sums to the accumulators:
// acc = fma(isum, dw·da, acc) and, with a minimum, acc = fma(mw, ds, acc).
func (f Int8) scale512(b *Block, scales Mem, acc []reg.VecVirtual) {
	dw, mw := ZMM(), ZMM()
	VCVTPH2PS(scales, dw)
	if f.Min {
		VCVTPH2PS(scales.Offset(2*quant.Lanes), mw)
	}
	for i, sum := range b.Sum {
		d := ZMM()
		VCVTDQ2PS(sum, sum)
		VMULPS_BCST(b.scale(i), dw, d)
		VFMADD231PS(sum, d, acc[i])
		if f.Min {
			VFMADD231PS_BCST(b.scaleSum(i), mw, acc[i])
		}
	}
}

// scale256 is scale512 for half the lanes a cell.
func (f Int8) scale256(b *Block, scales Mem, acc []reg.VecVirtual) {
	for i, sum := range b.Sum {
		at := scales.Offset(quant.Lanes * b.Cells[i].Half)
		d, x := YMM(), YMM()
		VCVTPH2PS(at, d)
		VBROADCASTSS(b.scale(i), x)
		VMULPS(x, d, d)
		VCVTDQ2PS(sum, sum)
		VFMADD231PS(sum, d, acc[i])
		if f.Min {
			VCVTPH2PS(at.Offset(2*quant.Lanes), d)
			VBROADCASTSS(b.scaleSum(i), x)
			VFMADD231PS(x, d, acc[i])
		}
	}
}

// Constant256 returns a register with 32 bits of x in each lane.
func Constant256(x uint32) reg.VecVirtual {
	t, v, low := GP32(), YMM(), XMM()
	MOVL(U32(x), t)
	MOVD(t, low)
	VPBROADCASTD(low, v)
	return v
}

// Constant512 returns a register with 32 bits of x in each lane.
func Constant512(x uint32) reg.VecVirtual {
	t, v := GP32(), ZMM()
	MOVL(U32(x), t)
	VPBROADCASTD(t, v)
	return v
}

// Zero512 clears v. It tells avo, which knows it of VPXOR alone, that the result
// does not depend on what v held; v would else be live, and keep its register,
// from the first instruction on.
func Zero512(v reg.VecVirtual) {
	zero, err := x86.VPXORD(v, v, v)
	if err != nil {
		panic(err)
	}
	zero.CancellingInputs = true
	Instruction(zero)
}
