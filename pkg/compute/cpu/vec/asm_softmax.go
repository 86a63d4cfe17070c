//go:build ignore

package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The layout of vec.Row, in bytes.
const (
	rowMax   = 0
	rowScale = 4
	rowFirst = 8
	rowLast  = 12
	rowSum   = 16
	rowBytes = 80
)

// soft is the state of the softmax kernel.
type soft struct {
	level
	s, row     reg.GPVirtual
	scale, cap reg.VecVirtual
	hidden     Op // the score of keys not seen
	two        Op
	exp        *exponential
}

// softmax generates the online softmax of a page in two walks over the rows, so
// that no row's powers wait for its own largest score alone. Scaled and masked
// scores go from the first to the second through memory.
func (l level) softmax() {
	l.open("Softmax", "func(s, rows *float32, n int, scale, softCap float32)", "makes weights of the scores of n rows")
	f := soft{level: l, s: argument("s"), row: argument("rows"), scale: l.spread("scale"), cap: l.spread("softCap")}
	n, capped := argument("n"), GP32()
	VMOVD(f.cap.AsX(), capped)
	f.hidden, f.two, f.exp = l.constant(-1e30), l.constant(2), l.exponential()
	f.eachRow("row", n, func() {
		largest := l.vecs(l.parts())
		for _, v := range largest {
			VBROADCASTSS(at(f.row, rowMax), v)
		}
		TESTL(U32(1<<31-1), capped)
		JNZ(LabelRef("capped"))
		f.scores(largest, func(reg.VecVirtual) {})
		JMP(LabelRef("scored"))
		Label("capped")
		f.scores(largest, f.softCap)
		Label("scored")
		f.join(largest)
	})
	f.eachRow("weights", n, f.weights)
	done()
}

// eachRow runs body with s and row at each row, and leaves them as they were.
func (f *soft) eachRow(label string, n reg.GPVirtual, body func()) {
	first, firstRow, count := GP64(), GP64(), GP64()
	MOVQ(f.s, first)
	MOVQ(f.row, firstRow)
	MOVQ(n, count)
	Label(label)
	body()
	ADDQ(U32(keysBytes), f.s)
	ADDQ(U32(rowBytes), f.row)
	down(count, label)
	MOVQ(first, f.s)
	MOVQ(firstRow, f.row)
}

// softCap replaces x by cap·(1 − 2/(exp(2x/cap) + 1)).
func (f *soft) softCap(x reg.VecVirtual) {
	VDIVPS(f.cap, x, x)
	VADDPS(x, x, x)
	f.exp.apply(x)
	VADDPS(f.exp.one, x, x)
	VDIVPS(x, f.register(f.two), x)
	VSUBPS(x, f.register(f.exp.one), x)
	VMULPS(f.cap, x, x)
}

// scores leaves the scaled scores in memory and the largest one of each lane in
// largest. Of two equal or unordered operands VMAXPS takes the first one here:
// the largest so far.
func (f *soft) scores(largest []reg.VecVirtual, limit func(x reg.VecVirtual)) {
	seen := f.sight()
	for i := range keys / f.width() {
		x := f.vec()
		VMULPS(at(f.s, i*f.bytes), f.scale, x)
		limit(x)
		seen.hide(i, x, f.hidden)
		VMOVUPS(x, at(f.s, i*f.bytes))
		most := largest[i%len(largest)]
		VMAXPS(most, x, most)
	}
}

// join makes the largest value of all lanes the row's maximum, and leaves the
// old one minus the new one in its scale. Zeros of both signs may have met; then
// the first zero of the page is the largest, unless the row has had one (which
// all lanes hold).
func (f *soft) join(largest []reg.VecVirtual) {
	x := f.joinHalves(largest, VMAXPS)
	bits, place, sign, old := GP32(), GP64(), GP32(), XMM()
	VMOVD(x, bits)
	ADDL(bits, bits)
	JNZ(LabelRef("joined"))
	MOVL(at(f.row, rowMax), bits)
	ADDL(bits, bits)
	JZ(LabelRef("joined"))
	MOVQ(f.s, place)
	Label("zero")
	MOVL(at(place, 0), sign)
	ADDQ(Imm(4), place)
	MOVL(sign, bits)
	ADDL(bits, bits)
	JNZ(LabelRef("zero"))
	VMOVD(sign, x)
	Label("joined")
	VMOVSS(at(f.row, rowMax), old)
	VSUBSS(x, old, old)
	VMOVSS(old, at(f.row, rowScale))
	VMOVSS(x, at(f.row, rowMax))
}

// weights makes weights of the scores, and the scale of the difference that
// join has left there, and updates the row's sum.
func (f *soft) weights() {
	largest, scale := f.vec(), f.vec()
	VBROADCASTSS(at(f.row, rowMax), largest)
	VBROADCASTSS(at(f.row, rowScale), scale)
	f.exp.applyNegative(scale)
	VMOVSS(scale.AsX(), at(f.row, rowScale))
	sum := f.vecs(f.parts())
	for i, v := range sum {
		VMOVUPS(at(f.row, rowSum+i*f.bytes), v)
	}
	seen := f.sight()
	for i := range keys / f.width() {
		e := f.vec()
		VMOVUPS(at(f.s, i*f.bytes), e)
		VSUBPS(largest, e, e)
		f.exp.applyNegative(e)
		seen.clear(i, e)
		VMOVUPS(e, at(f.s, i*f.bytes))
		if lane := i % len(sum); i < len(sum) {
			VFMADD213PS(e, scale, sum[lane])
		} else {
			VADDPS(e, sum[lane], sum[lane])
		}
	}
	for i, v := range sum {
		VMOVUPS(v, at(f.row, rowSum+i*f.bytes))
	}
}

// sight masks keys outside [first, last].
type sight struct {
	level
	first, last reg.VecVirtual
}

func (f *soft) sight() sight {
	g := sight{f.level, f.vec(), f.vec()}
	VPBROADCASTD(at(f.row, rowFirst), g.first)
	VPBROADCASTD(at(f.row, rowLast), g.last)
	return g
}

// index returns the numbers of the keys of register i.
func (g sight) index(i int) reg.VecVirtual {
	v := g.vec()
	VMOVUPS(table.Offset(indexTable+i*g.bytes), v)
	return v
}

// mask512 returns the lanes of register i whose keys are seen.
func (g sight) mask512(i int) reg.OpmaskVirtual {
	const lessOrEqual = 2
	after, both, index := K(), K(), g.index(i)
	VPCMPD(Imm(lessOrEqual), index, g.first, after)
	VPCMPD(Imm(lessOrEqual), g.last, index, after, both)
	return both
}

// hidden256 returns ones in the lanes of register i whose keys are not seen.
func (g sight) hidden256(i int) reg.VecVirtual {
	before, index := g.vec(), g.index(i)
	VPCMPGTD(index, g.first, before)
	VPCMPGTD(g.last, index, index)
	VPOR(before, index, index)
	return index
}

// hide sets lanes of x that are not seen to the value of hidden.
func (g sight) hide(i int, x reg.VecVirtual, hidden Op) {
	if g.level == avx512 {
		VBLENDMPS(x, g.register(hidden), g.mask512(i), x)
	} else {
		VBLENDVPS(g.hidden256(i), hidden, x, x)
	}
}

// clear sets lanes of e that are not seen to zero.
func (g sight) clear(i int, e reg.VecVirtual) {
	if g.level == avx512 {
		VMOVUPS_Z(e, g.mask512(i), e)
	} else {
		VANDNPS(e, g.hidden256(i), e)
	}
}
