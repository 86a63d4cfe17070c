//go:build ignore

package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// quantizer is the state of the quantising kernel, which takes four blocks at a
// time: what has one value a block, then fills the lanes of a register.
type quantizer struct {
	x       reg.GPVirtual // the activations
	values  reg.GPVirtual // the token's int8 values in the block
	numbers reg.GPVirtual // the token's first number in the block
	T       reg.GPVirtual // bytes from one number of the token to the next
	stride  reg.GPVirtual // bytes from one block to the next
}

// blockBytes are the bytes of the activations of a block.
const blockBytes = 4 * 32

// quantize writes quant.ActInt8.
func quantize() {
	avx2.open("Quantize", "func(tile *byte, x *float32, blocks, T, t int)", "quantises blocks of 32 values as token t of T")
	q := quantizer{x: argument("x"), values: argument("tile"), T: argument("T"), numbers: GP64(), stride: GP64()}
	blocks, t := argument("blocks"), argument("t")
	SHLQ(Imm(2), q.T)
	LEAQ(Mem{Base: q.values, Index: q.T, Scale: 8}, q.numbers)
	LEAQ(Mem{Base: q.numbers, Index: t, Scale: 4}, q.numbers)
	SHLQ(Imm(5), t)
	ADDQ(t, q.values)
	LEAQ(Mem{Base: q.T, Index: q.T, Scale: 2}, q.stride)
	SHLQ(Imm(2), q.stride)
	for _, n := range []int{4, 1} {
		label := fmt.Sprint("blocks", n)
		Label(label)
		CMPQ(blocks, Imm(uint64(n)))
		JLT(LabelRef("after" + label))
		q.quantize(n)
		SUBQ(Imm(uint64(n)), blocks)
		JMP(LabelRef(label))
		Label("after" + label)
	}
	done()
}

// quantize does n blocks, 4 or 1; one block is done as four that are the same.
func (q *quantizer) quantize(n int) {
	magnitudes, sums := avx2.vecs(n), avx2.vecs(n)
	for i, m := range magnitudes {
		q.magnitudes(i, m)
	}
	d, inverse := scales(largest(magnitudes))
	for i, s := range sums {
		q.round(i, inverse, s)
		ADDQ(q.stride, q.values)
	}
	q.store(n, d, joinSums(sums))
	ADDQ(U32(uint32(n*blockBytes)), q.x)
}

// magnitudes leaves the largest magnitudes of block i in the lanes of most. They
// are compared as integers, where a NaN is the largest.
func (q *quantizer) magnitudes(i int, most reg.VecVirtual) {
	mask, v := YMM(), YMM()
	VMOVDQU(number(1<<31-1), mask)
	VPAND(at(q.x, i*blockBytes), mask, most)
	for offset := avx2.bytes; offset < blockBytes; offset += avx2.bytes {
		VPAND(at(q.x, i*blockBytes+offset), mask, v)
		VPMAXSD(v, most, most)
	}
}

// largest returns the largest lane of each block in the lane of its number.
func largest(blocks []reg.VecVirtual) reg.VecVirtual {
	block := func(i int) reg.VecVirtual { return blocks[i%len(blocks)] }
	var pairs [2]reg.VecVirtual
	for i := range pairs {
		low, high := YMM(), YMM()
		VPUNPCKLDQ(block(2*i+1), block(2*i), low)
		VPUNPCKHDQ(block(2*i+1), block(2*i), high)
		VPMAXSD(low, high, high)
		pairs[i] = high
	}
	low, high := YMM(), YMM()
	VPUNPCKLQDQ(pairs[1], pairs[0], low)
	VPUNPCKHQDQ(pairs[1], pairs[0], high)
	VPMAXSD(low, high, high)
	other := XMM()
	VEXTRACTI128(Imm(1), high, other)
	VPMAXSD(high.AsX(), other, other)
	return other
}

// scales returns the scale of each block and its inverse, zeros for tiny blocks.
func scales(largest reg.VecVirtual) (d, inverse reg.VecVirtual) {
	const lessThan = 0x11
	tiny := XMM()
	d, inverse = XMM(), XMM()
	VCMPPS(Imm(lessThan), avx2.constant(1e-30), largest, tiny)
	VMULPS(avx2.constant(1.0/127.0), largest, d)
	VMOVUPS(avx2.constant(1), inverse)
	VDIVPS(d, inverse, inverse)
	VANDNPS(d, tiny, d)
	VANDNPS(inverse, tiny, inverse)
	return d, inverse
}

// round stores the values of block i, and leaves sums of them in sums: of the
// first 16 in the low half, of the others in the high half.
func (q *quantizer) round(i int, inverse, sums reg.VecVirtual) {
	wide, order, ones := YMM(), YMM(), YMM()
	VMOVDQU(number(uint32(i)), order)
	VPERMPS(inverse.AsY(), order, wide)
	v := avx2.vecs(blockBytes / avx2.bytes)
	for j, x := range v {
		VMULPS(at(q.x, i*blockBytes+j*avx2.bytes), wide, x)
		VCVTPS2DQ(x, x)
	}
	// Packing works on 128-bit halves: the low one gets values 0..3, 8..11,
	// 16..19 and 24..27; the permutation puts groups of 4 in order.
	VPACKSSDW(v[1], v[0], v[0])
	VPACKSSDW(v[3], v[2], v[2])
	VPACKSSWB(v[2], v[0], v[0])
	VMOVDQU(table.Offset(orderTable), order)
	VPERMD(v[0], order, v[0])
	VMOVDQU(v[0], at(q.values, 0))
	VMOVDQU(number(0x01010101), ones)
	VPMADDUBSW(v[0], ones, sums)
	VPMADDWD(number(0x00010001), sums, sums)
}

// joinSums returns the sums of the first halves of the blocks in the low half
// of a register, and those of the second halves in the high half.
func joinSums(blocks []reg.VecVirtual) reg.VecVirtual {
	block := func(i int) reg.VecVirtual { return blocks[i%len(blocks)] }
	first, second := YMM(), YMM()
	VPHADDD(block(1), block(0), first)
	VPHADDD(block(3), block(2), second)
	VPHADDD(second, first, first)
	return first
}

// store writes the numbers of n blocks: d, d·Σq, −8·Σq, and the sums of the
// halves as int16.
func (q *quantizer) store(n int, d, sums reg.VecVirtual) {
	high, total, ds, n8 := XMM(), XMM(), XMM(), XMM()
	VEXTRACTI128(Imm(1), sums, high)
	VPADDD(high, sums.AsX(), total)
	VCVTDQ2PS(total, ds)
	VMULPS(ds, d, ds)
	VPXOR(n8, n8, n8)
	VPSLLD(Imm(3), total, total)
	VPSUBD(total, n8, n8)
	VPSLLD(Imm(16), high, high)
	VPBLENDW(Imm(0b10_10_10_10), high, sums.AsX(), high)
	for i := range n {
		last := GP64()
		LEAQ(Mem{Base: q.numbers, Index: q.T, Scale: 1}, last)
		VEXTRACTPS(Imm(uint64(i)), d, at(q.numbers, 0))
		VEXTRACTPS(Imm(uint64(i)), ds, at(last, 0))
		VEXTRACTPS(Imm(uint64(i)), n8, Mem{Base: q.numbers, Index: q.T, Scale: 2})
		VEXTRACTPS(Imm(uint64(i)), high, Mem{Base: last, Index: q.T, Scale: 2})
		ADDQ(q.stride, q.numbers)
	}
}
