//go:build ignore

package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// pages generates the products with keys and values: a kernel for each number
// of query rows whose accumulators the registers hold. The accumulators of a
// pass are rows × some registers side by side; every chain of fma is complete
// within one pass.
func (l level) pages() {
	most := 3
	if l == avx512 {
		most = 6
	}
	for rows := 1; rows <= most; rows++ {
		l.score(rows)
		l.values(rows)
	}
}

// sideBySide returns the most registers of one row in a pass.
func (l level) sideBySide(rows int) int {
	if l == avx2 && rows == 1 {
		return 8
	}
	return 4
}

// accumulate adds the products of one step to the accumulators acc[row][i]:
// scalars[row], broadcast, times the registers at vectors.
func (l level) accumulate(acc [][]reg.VecVirtual, scalars []Mem, vectors reg.GPVirtual) {
	wide := l.vecs(len(acc))
	for r, scalar := range scalars {
		VBROADCASTSS(scalar, wide[r])
	}
	for i := range acc[0] {
		if len(acc) == 1 {
			VFMADD231PS(at(vectors, i*l.bytes), wide[0], acc[0][i])
			continue
		}
		v := l.vec()
		VMOVUPS(at(vectors, i*l.bytes), v)
		for r := range acc {
			VFMADD231PS(wide[r], v, acc[r][i])
		}
	}
}

// accumulators returns rows × n registers.
func (l level) accumulators(rows, n int) [][]reg.VecVirtual {
	acc := make([][]reg.VecVirtual, rows)
	for r := range acc {
		acc[r] = l.vecs(n)
	}
	return acc
}

// strided returns the addresses of rows values, stride bytes from each other.
func strided(base, stride reg.GPVirtual, rows int) []Mem {
	places := []Mem{{Base: base}, {Base: base, Index: stride, Scale: 1}, {Base: base, Index: stride, Scale: 2}}
	if rows > 3 {
		stride3 := GP64()
		LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, stride3)
		places = append(places, Mem{Base: base, Index: stride3, Scale: 1})
	}
	if rows > 4 {
		places = append(places, Mem{Base: base, Index: stride, Scale: 4})
	}
	if rows > 5 {
		stride5 := GP64()
		LEAQ(Mem{Base: stride, Index: stride, Scale: 4}, stride5)
		places = append(places, Mem{Base: base, Index: stride5, Scale: 1})
	}
	return places[:rows]
}

// score scores a page, in AVX-512 as many registers of keys as hold the first n.
func (l level) score(rows int) {
	l.open(fmt.Sprintf("Score%d", rows), "func(s, q, keys *float32, dim"+l.first()+" int)", fmt.Sprintf("scores a page for %d rows", rows))
	k := scored{level: l, rows: rows, s: argument("s"), q: argument("q"), page: argument("keys"), dim: argument("dim")}
	k.query, k.stride = GP64(), GP64()
	MOVQ(k.dim, k.stride)
	SHLQ(Imm(2), k.stride)
	k.queries = strided(k.query, k.stride, rows)
	side := l.sideBySide(rows)
	if l == avx512 {
		n := argument("n")
		for registers := 1; registers < side; registers++ {
			more := fmt.Sprint("morethan", registers)
			CMPQ(n, Imm(uint64(registers*l.width())))
			JGT(LabelRef(more))
			k.pass(0, registers)
			done()
			Label(more)
		}
	}
	for first := 0; first < keys/l.width(); first += side {
		k.pass(first, side)
	}
	done()
}

// first returns the parameter with the number of keys to take, where kernels have
// it.
func (l level) first() string {
	if l == avx512 {
		return ", n"
	}
	return ""
}

// scored is the state of a score kernel.
type scored struct {
	level
	rows                           int
	s, q, page, dim, query, stride reg.GPVirtual
	queries                        []Mem
}

// pass scores n registers of keys, from register first of the page on.
func (k *scored) pass(first, n int) {
	offset := first * k.bytes
	acc := k.accumulators(k.rows, n)
	for _, row := range acc {
		for _, v := range row {
			k.zero(v)
		}
	}
	column, count := GP64(), GP64()
	LEAQ(at(k.page, offset), column)
	MOVQ(k.q, k.query)
	MOVQ(k.dim, count)
	label := fmt.Sprint("pass", first, "by", n)
	Label(label)
	k.accumulate(acc, k.queries, column)
	ADDQ(U32(keysBytes), column)
	ADDQ(Imm(4), k.query)
	down(count, label)
	for r, row := range acc {
		for i, v := range row {
			VMOVUPS(v, at(k.s, r*keysBytes+offset+i*k.bytes))
		}
	}
}

// values walks the columns of the outputs in blocks, widest first.
func (l level) values(rows int) {
	l.open(fmt.Sprintf("Values%d", rows), "func(o, e, values, rows *float32, dim"+l.first()+" int)", fmt.Sprintf("adds the weighted values of a page to %d rows of outputs", rows))
	w := weighted{level: l, rows: rows}
	w.o, w.e, w.values, w.states = argument("o"), argument("e"), argument("values"), argument("rows")
	w.dim, w.left, w.keys = argument("dim"), GP64(), GP64()
	if l == avx512 {
		Load(Param("n"), w.keys)
	} else {
		MOVQ(U32(keys), w.keys)
	}
	MOVQ(w.dim, w.left)
	SHLQ(Imm(2), w.dim)
	for n := l.sideBySide(rows); n > 0; n /= 2 {
		w.columns(n)
	}
	if l == avx512 {
		w.level = avx2 // for 8 columns
		w.columns(1)
	}
	done()
}

// weighted is the state of a values kernel; dim in bytes.
type weighted struct {
	level
	rows                                  int
	o, e, values, states, dim, left, keys reg.GPVirtual
}

// columns does blocks of n registers of columns while so many are left.
func (w *weighted) columns(n int) {
	columns := n * w.width()
	label := fmt.Sprint("columns", columns)
	Label(label)
	CMPQ(w.left, Imm(uint64(columns)))
	JLT(LabelRef("after" + label))
	acc := w.accumulators(w.rows, n)
	w.eachRow(func(row int, output reg.GPVirtual) {
		scale := w.vec()
		VBROADCASTSS(at(w.states, row*rowBytes+rowScale), scale)
		for i, v := range acc[row] {
			VMULPS(at(output, i*w.bytes), scale, v)
		}
	})
	value, weight, count := GP64(), GP64(), GP64()
	MOVQ(w.values, value)
	MOVQ(w.e, weight)
	MOVQ(w.keys, count)
	var weights []Mem
	for row := range w.rows {
		weights = append(weights, at(weight, row*keysBytes))
	}
	Label("keys" + label)
	w.accumulate(acc, weights, value)
	ADDQ(w.dim, value)
	ADDQ(Imm(4), weight)
	down(count, "keys"+label)
	w.eachRow(func(row int, output reg.GPVirtual) {
		for i, v := range acc[row] {
			VMOVUPS(v, at(output, i*w.bytes))
		}
	})
	ADDQ(U32(uint32(4*columns)), w.o)
	ADDQ(U32(uint32(4*columns)), w.values)
	SUBQ(Imm(uint64(columns)), w.left)
	JMP(LabelRef(label))
	Label("after" + label)
}

// eachRow runs body for each row with the address of its outputs.
func (w *weighted) eachRow(body func(row int, output reg.GPVirtual)) {
	output := GP64()
	MOVQ(w.o, output)
	for row := range w.rows {
		if row > 0 {
			ADDQ(w.dim, output)
		}
		body(row, output)
	}
}
