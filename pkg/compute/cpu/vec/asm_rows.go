//go:build ignore

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// rows generates the kernels over rows of values.
func (l level) rows() {
	l.sumSq()
	l.norm()
	l.add()
	l.expRow()
	l.gated("SiLU", "writes the gated SiLU of blocks of 16 values", l.silu)
	l.gated("GELU", "writes the gated GELU of blocks of 16 values", l.gelu)
}

// eachBlock runs body for each register of each block of 16 values; offset is
// from the pointers, which move on.
func (l level) eachBlock(pointers []reg.GPVirtual, body func(offset int)) {
	blocks := argument("blocks")
	Label("loop")
	TESTQ(blocks, blocks)
	JZ(LabelRef("end"))
	for part := range l.parts() {
		body(part * l.bytes)
	}
	for _, p := range pointers {
		ADDQ(Imm(4*lanes), p)
	}
	DECQ(blocks)
	JMP(LabelRef("loop"))
	Label("end")
	done()
}

func (l level) sumSq() {
	l.open("SumSq", "func(x *float32, n int) float32", "sums the squares of n values")
	x, n := argument("x"), argument("n")
	sum := l.vecs(l.parts())
	for _, v := range sum {
		l.zero(v)
	}
	blocks := GP64()
	MOVQ(n, blocks)
	SHRQ(Imm(4), blocks)
	JZ(LabelRef("tail"))
	Label("loop")
	for part, v := range sum {
		t := l.vec()
		VMOVUPS(at(x, part*l.bytes), t)
		VFMADD231PS(t, t, v)
	}
	ADDQ(Imm(4*lanes), x)
	down(blocks, "loop")
	Label("tail")
	l.sumSqTail(x, n, sum)
	total := l.joinHalves(sum, VADDPS)
	result, err := ReturnIndex(0).Resolve()
	if err != nil {
		panic(err)
	}
	VMOVSS(total, result.Addr)
	done()
}

// sumSqTail adds the last n mod 16 values; the other lanes add 0², which changes
// no sum of squares.
func (l level) sumSqTail(x, n reg.GPVirtual, sum []reg.VecVirtual) {
	ANDQ(Imm(lanes-1), n)
	JZ(LabelRef("join"))
	masks := GP64()
	LEAQ(table.Offset(tailTable+4*lanes), masks)
	SHLQ(Imm(2), n)
	SUBQ(n, masks)
	for part, v := range sum {
		mask, t := l.vec(), l.vec()
		VMOVUPS(at(masks, part*l.bytes), mask)
		if l == avx512 {
			k := K()
			VPTESTMD(mask, mask, k)
			VMOVUPS_Z(at(x, 0), k, t)
		} else {
			VMASKMOVPS(at(x, part*l.bytes), mask, t)
		}
		VFMADD231PS(t, t, v)
	}
	Label("join")
}

func (l level) norm() {
	l.open("Norm", "func(dst, x, gain *float32, blocks int, s float32)", "scales blocks of 16 values")
	dst, x, gain := argument("dst"), argument("x"), argument("gain")
	s := l.spread("s")
	l.eachBlock([]reg.GPVirtual{dst, x, gain}, func(offset int) {
		v := l.vec()
		VMULPS(at(x, offset), s, v)
		VMULPS(at(gain, offset), v, v)
		VMOVUPS(v, at(dst, offset))
	})
}

func (l level) add() {
	l.open("Add", "func(x, y *float32, blocks int)", "adds blocks of 16 values")
	x, y := argument("x"), argument("y")
	l.eachBlock([]reg.GPVirtual{x, y}, func(offset int) {
		v := l.vec()
		VMOVUPS(at(x, offset), v)
		VADDPS(at(y, offset), v, v)
		VMOVUPS(v, at(x, offset))
	})
}

func (l level) expRow() {
	l.open("Exp", "func(dst, x *float32, blocks int)", "exponentiates blocks of 16 values")
	dst, x := argument("dst"), argument("x")
	e := l.exponential()
	l.eachBlock([]reg.GPVirtual{dst, x}, func(offset int) {
		v := l.vec()
		VMOVUPS(at(x, offset), v)
		e.apply(v)
		VMOVUPS(v, at(dst, offset))
	})
}

// gated generates dst = g/(1 + exp(−z))·up; exponent returns code for −z of a
// register of g.
func (l level) gated(name, doc string, exponent func() func(g reg.VecVirtual) reg.VecVirtual) {
	l.open(name, "func(dst, gate, up *float32, blocks int)", doc)
	dst, g, up := argument("dst"), argument("gate"), argument("up")
	e := l.exponential()
	minusZ := exponent()
	l.eachBlock([]reg.GPVirtual{dst, g, up}, func(offset int) {
		v := l.vec()
		VMOVUPS(at(g, offset), v)
		z := minusZ(v)
		e.apply(z)
		VADDPS(e.one, z, z)
		VDIVPS(z, v, v)
		VMULPS(at(up, offset), v, v)
		VMOVUPS(v, at(dst, offset))
	})
}

// negate returns code for dst = −v.
func (l level) negate() func(v, dst reg.VecVirtual) {
	sign := l.bits(1 << 31)
	return func(v, dst reg.VecVirtual) {
		if l == avx512 {
			VPXORD(sign, v, dst)
		} else {
			VXORPS(sign, v, dst)
		}
	}
}

func (l level) silu() func(g reg.VecVirtual) reg.VecVirtual {
	negate := l.negate()
	return func(g reg.VecVirtual) reg.VecVirtual {
		z := l.vec()
		negate(g, z)
		return z
	}
}

// The numbers of portable.go.
const (
	geluLinear = float32(2 * 0.79788456080286535588)
	geluCubic  = float32(2 * 0.79788456080286535588 * 0.044715)
)

func (l level) gelu() func(g reg.VecVirtual) reg.VecVirtual {
	negate := l.negate()
	linear, cubic := l.constant(geluLinear), l.constant(geluCubic)
	return func(g reg.VecVirtual) reg.VecVirtual {
		z, c := l.vec(), l.vec()
		VMULPS(g, g, z)
		VMOVUPS(cubic, c)
		VFMADD213PS(linear, c, z)
		VMULPS(g, z, z)
		negate(z, z)
		return z
	}
}

// exponential is the code of exp32 (portable.go) and the operands it needs.
type exponential struct {
	l level

	least, most, log2e, round, high, low, one, bias Op

	// The coefficients from the highest degree on.
	polynomial []Op
}

func (l level) exponential() *exponential {
	e := &exponential{
		l:     l,
		least: l.constant(-87),
		most:  l.constant(88),
		log2e: l.constant(1.44269504088896340736),
		round: l.constant(0x1.8p23),
		high:  l.constant(-0.693359375),
		low:   l.constant(2.12194440054690583e-4),
		one:   l.constant(1),
		bias:  l.bits(127 << 23),
	}
	for _, c := range []float32{0x1.6a4748p-10, 0x1.1239a2p-7, 0x1.5558b6p-5, 0x1.555492p-3, 0x1.fffffcp-2} {
		e.polynomial = append(e.polynomial, l.constant(c))
	}
	e.polynomial = append(e.polynomial, e.one, e.one)
	return e
}

// apply replaces x by e to its power. Of two equal or unordered operands,
// VMAXPS and VMINPS take the first one here: x, so a NaN stays.
func (e *exponential) apply(x reg.VecVirtual) {
	VMINPS(x, e.l.register(e.most), x)
	e.applyNegative(x)
}

// applyNegative is apply for x that are not above the upper bound.
func (e *exponential) applyNegative(x reg.VecVirtual) {
	n, p, exponent := e.l.vec(), e.l.vec(), e.l.vec()
	VMAXPS(x, e.l.register(e.least), x)
	VMULPS(e.log2e, x, n)
	VADDPS(e.round, n, n)
	if e.l == avx2 {
		VPSLLD(Imm(23), n, exponent)
	}
	VSUBPS(e.round, n, n)
	VFMADD231PS(e.high, n, x)
	VFMADD231PS(e.low, n, x)
	VMOVUPS(e.polynomial[0], p)
	for _, c := range e.polynomial[1:] {
		VFMADD213PS(c, x, p)
	}
	if e.l == avx2 {
		VPADDD(e.bias, exponent, exponent)
		VMULPS(exponent, p, x)
	} else {
		VSCALEFPS(n, p, x) // p·2ⁿ
	}
}
