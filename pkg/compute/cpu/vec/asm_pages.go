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

func (l level) score(rows int) {
	l.open(fmt.Sprintf("Score%d", rows), "func(s, q, keys *float32, dim int)", fmt.Sprintf("scores a page for %d rows", rows))
	s, q, page, dim := argument("s"), argument("q"), argument("keys"), argument("dim")
	n := l.sideBySide(rows)
	query, count, stride := GP64(), GP64(), GP64()
	MOVQ(dim, stride)
	SHLQ(Imm(2), stride)
	queries := strided(query, stride, rows)
	for pass := range keys / (n * l.width()) {
		offset := pass * n * l.bytes
		acc := l.accumulators(rows, n)
		for _, row := range acc {
			for _, v := range row {
				l.zero(v)
			}
		}
		column := GP64()
		LEAQ(at(page, offset), column)
		MOVQ(q, query)
		MOVQ(dim, count)
		label := fmt.Sprint("pass", pass)
		Label(label)
		l.accumulate(acc, queries, column)
		ADDQ(U32(keysBytes), column)
		ADDQ(Imm(4), query)
		down(count, label)
		for r, row := range acc {
			for i, v := range row {
				VMOVUPS(v, at(s, r*keysBytes+offset+i*l.bytes))
			}
		}
	}
	done()
}

// values walks the columns of the outputs in blocks, widest first.
func (l level) values(rows int) {
	l.open(fmt.Sprintf("Values%d", rows), "func(o, e, values, rows *float32, dim int)", fmt.Sprintf("adds the weighted values of a page to %d rows of outputs", rows))
	w := weighted{level: l, rows: rows}
	w.o, w.e, w.values, w.states = argument("o"), argument("e"), argument("values"), argument("rows")
	w.dim, w.left = argument("dim"), GP64()
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
	rows                            int
	o, e, values, states, dim, left reg.GPVirtual
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
	MOVQ(U32(keys), count)
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
