//go:build ignore

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// tiles generates the kernels that serve both levels: those that move data more
// than they compute.
func tiles() {
	quantize()
	tile()
	rotateHalves()
	rotatePairs()
	finish()
}

// tile scatters values, or copies them when they stay side by side. Scattered,
// the stores are the limit: plain registers do.
func tile() {
	avx2.open("Tile", "func(dst *byte, x *float32, n, stride int)", "writes value i at byte i·stride of dst")
	dst, x, n, stride := argument("dst"), argument("x"), argument("n"), argument("stride")
	CMPQ(stride, Imm(4))
	JNE(LabelRef("scatter"))
	Label("eight")
	CMPQ(n, Imm(8))
	JLT(LabelRef("scatter"))
	eight := YMM()
	VMOVUPS(at(x, 0), eight)
	VMOVUPS(eight, at(dst, 0))
	ADDQ(Imm(32), x)
	ADDQ(Imm(32), dst)
	SUBQ(Imm(8), n)
	JMP(LabelRef("eight"))
	Label("scatter")
	stride3 := GP64()
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	Label("four")
	CMPQ(n, Imm(4))
	JLT(LabelRef("one"))
	places := []Mem{{Base: dst}, {Base: dst, Index: stride, Scale: 1}, {Base: dst, Index: stride, Scale: 2}, {Base: dst, Index: stride3, Scale: 1}}
	for i, place := range places {
		v := GP32()
		MOVL(at(x, 4*i), v)
		MOVL(v, place)
	}
	LEAQ(Mem{Base: dst, Index: stride, Scale: 4}, dst)
	ADDQ(Imm(16), x)
	SUBQ(Imm(4), n)
	JMP(LabelRef("four"))
	Label("one")
	TESTQ(n, n)
	JZ(LabelRef("end"))
	v := GP32()
	MOVL(at(x, 0), v)
	MOVL(v, at(dst, 0))
	ADDQ(stride, dst)
	ADDQ(Imm(4), x)
	down(n, "one")
	Label("end")
	done()
}

// turn is the state of a rotation: heads heads of dim bytes at x.
type turn struct{ x, cos, sin, heads, dim, pairs reg.GPVirtual }

func openTurn(name, doc string) turn {
	avx2.open(name, "func(x, cos, sin *float32, heads, dim, pairs int)", doc)
	t := turn{argument("x"), argument("cos"), argument("sin"), argument("heads"), argument("dim"), argument("pairs")}
	SHLQ(Imm(2), t.dim)
	return t
}

// eachHead walks all heads for the same few pairs, then moves on to the next
// ones: their angles are loaded once. load prepares the angles, body turns a head.
func (t turn) eachHead(pairs, bytes int, load func(), body func(head reg.GPVirtual)) {
	head, count := GP64(), GP64()
	Label("pairs")
	load()
	MOVQ(t.x, head)
	MOVQ(t.heads, count)
	Label("head")
	body(head)
	ADDQ(t.dim, head)
	down(count, "head")
	ADDQ(Imm(uint64(bytes)), t.x)
	ADDQ(Imm(uint64(4*pairs)), t.cos)
	ADDQ(Imm(uint64(4*pairs)), t.sin)
	SUBQ(Imm(uint64(pairs)), t.pairs)
	JNZ(LabelRef("pairs"))
	done()
}

func rotateHalves() {
	t := openTurn("RotateHalves", "turns pairs (i, i+pairs) of each head, a multiple of 8,")
	far := GP64()
	MOVQ(t.pairs, far)
	SHLQ(Imm(2), far)
	cos, sin := YMM(), YMM()
	load := func() {
		VMOVUPS(at(t.cos, 0), cos)
		VMOVUPS(at(t.sin, 0), sin)
	}
	t.eachHead(8, 32, load, func(head reg.GPVirtual) {
		other := Mem{Base: head, Index: far, Scale: 1}
		a, b, x, y := YMM(), YMM(), YMM(), YMM()
		VMOVUPS(at(head, 0), a)
		VMOVUPS(other, b)
		VMULPS(b, sin, x)
		VMULPS(a, sin, y)
		VFMSUB231PS(cos, a, x) // a·cos − (b·sin)
		VFMADD231PS(cos, b, y) // b·cos + (a·sin)
		VMOVUPS(x, at(head, 0))
		VMOVUPS(y, other)
	})
}

func rotatePairs() {
	t := openTurn("RotatePairs", "turns pairs (2i, 2i+1) of each head, a multiple of 4,")
	cos, sin := YMM(), YMM()
	load := func() { // each angle twice
		VPMOVZXDQ(at(t.cos, 0), cos)
		VPMOVZXDQ(at(t.sin, 0), sin)
		VMOVSLDUP(cos, cos)
		VMOVSLDUP(sin, sin)
	}
	t.eachHead(4, 32, load, func(head reg.GPVirtual) {
		v, other := YMM(), YMM()
		VMOVUPS(at(head, 0), v)
		VPERMILPS(Imm(0b10_11_00_01), v, other)
		VMULPS(sin, other, other)
		VFMADDSUB231PS(cos, v, other) // even values minus, odd ones plus
		VMOVUPS(other, at(head, 0))
	})
}

func finish() {
	l := avx2
	l.open("Finish", "func(dst, o, row *float32, n int)", "divides n outputs, a multiple of 8, by the sum of a row")
	dst, o, row, n := argument("dst"), argument("o"), argument("row"), argument("n")
	sum := l.vecs(l.parts())
	for i, v := range sum {
		VMOVUPS(at(row, rowSum+i*l.bytes), v)
	}
	total := l.joinHalves(sum, VADDPS)
	inverse, zero, wide := XMM(), YMM(), YMM()
	VMOVSS(l.constant(1), inverse)
	VDIVSS(total, inverse, inverse)
	VBROADCASTSS(inverse, wide)
	VPXOR(zero, zero, zero)
	Label("loop")
	TESTQ(n, n)
	JZ(LabelRef("end"))
	v := YMM()
	VMULPS(at(o, 0), wide, v)
	VADDPS(zero, v, v)
	VMOVUPS(v, at(dst, 0))
	ADDQ(Imm(32), o)
	ADDQ(Imm(32), dst)
	SUBQ(Imm(8), n)
	JMP(LabelRef("loop"))
	Label("end")
	done()
}
