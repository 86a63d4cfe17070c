//go:build ignore

package main

import (
	"fmt"

	. "github.com/shoal-llm/shoal/internal/neongen"
)

// accumulators is the most registers that hold sums in a pass: rows × some
// registers side by side. Every chain of fma is complete within one pass.
const accumulators = 24

// sideBySide returns the most registers of one row in a pass, a power of two.
func sideBySide(rows int) int {
	n := 16
	for n*rows > accumulators {
		n /= 2
	}
	return n
}

// grid returns rows × n registers.
func (a *writer) grid(rows, n int) [][]V {
	acc := make([][]V, rows)
	for r := range acc {
		acc[r] = a.Vecs(n)
	}
	return acc
}

// accumulate adds lane i of scalars[row] times the registers at vectors to
// acc[row].
func (a *writer) accumulate(acc [][]V, scalars []V, i int, vectors R, offset int) {
	a.Scope(func() {
		v := a.Vec()
		for j := range acc[0] {
			a.LoadQ(v, vectors, offset+16*j)
			for r, row := range acc {
				a.FMLAElement(row[j], v, scalars[r], i)
			}
		}
	})
}

// score takes 4 dimensions at a time.
func (a *writer) score(rows int) {
	a.Func(fmt.Sprintf("neonScore%d", rows), "func(s, q, keys *float32, dim int)", fmt.Sprintf("scores a page for %d rows", rows), 0)
	s, q, page, dim := a.Arg("s"), a.Arg("q"), a.Arg("keys"), a.Arg("dim")
	column, count := a.Reg(), a.Reg()
	queries := make([]R, rows)
	for r := range queries {
		queries[r] = a.Reg()
	}
	n := sideBySide(rows)
	acc, scalars := a.grid(rows, n), a.Vecs(rows)
	for pass := range keys / 4 / n {
		offset := pass * n * 16
		a.Do("ADD $%d, %v, %v", offset, page, column)
		a.Do("LSR $2, %v, %v", dim, count)
		for r, query := range queries {
			if r == 0 {
				a.Do("MOVD %v, %v", q, query)
			} else {
				a.Do("ADD %v<<2, %v, %v", dim, queries[r-1], query)
			}
			for _, v := range acc[r] {
				a.Zero(v)
			}
		}
		label := fmt.Sprint("pass", pass)
		a.Label(label)
		for r, query := range queries {
			a.LoadQ(scalars[r], query, 0)
			a.Do("ADD $16, %v", query)
		}
		for d := range 4 {
			a.accumulate(acc, scalars, d, column, d*keysBytes)
		}
		a.Do("ADD $%d, %v", 4*keysBytes, column)
		a.Down(count, label)
		for r, row := range acc {
			for i, v := range row {
				a.StoreQ(v, s, r*keysBytes+offset+16*i)
			}
		}
	}
	a.Do("RET")
}

// values walks the columns of the outputs in blocks, widest first.
func (a *writer) values(rows int) {
	a.Func(fmt.Sprintf("neonValues%d", rows), "func(o, e, values, rows *float32, dim int)", fmt.Sprintf("adds the weighted values of a page to %d rows of outputs", rows), 0)
	w := weighted{writer: a, rows: rows}
	w.o, w.e, w.values, w.states = a.Arg("o"), a.Arg("e"), a.Arg("values"), a.Arg("rows")
	w.dim, w.left = a.Arg("dim"), a.Reg()
	a.Do("MOVD %v, %v", w.dim, w.left)
	a.Do("LSL $2, %v", w.dim)
	for n := sideBySide(rows); n > 1; n /= 2 {
		a.Scope(func() { w.columns(n) })
	}
	a.Do("RET")
}

// weighted is the state of a values kernel; dim in bytes.
type weighted struct {
	*writer
	rows                            int
	o, e, values, states, dim, left R
}

// columns does blocks of n registers of columns while so many are left, 4 keys
// at a time.
func (w *weighted) columns(n int) {
	label := fmt.Sprint("columns", 4*n)
	w.Label(label)
	w.Do("CMP $%d, %v", 4*n, w.left)
	w.Do("BLT after%s", label)
	acc, weights := w.grid(w.rows, n), w.Vecs(w.rows)
	w.eachRow(func(row int, output R) {
		scale := weights[row]
		w.LoadS(scale, w.states, row*rowBytes+rowScale)
		for i, v := range acc[row] {
			w.LoadQ(v, output, 16*i)
			w.FMULElement(v, v, scale, 0)
		}
	})
	value, weight, count := w.Reg(), w.Reg(), w.Reg()
	w.Do("MOVD %v, %v", w.values, value)
	w.Do("MOVD %v, %v", w.e, weight)
	w.Do("MOVD $%d, %v", keys/4, count)
	w.Label("keys" + label)
	for row, v := range weights {
		w.LoadQ(v, weight, row*keysBytes)
	}
	for key := range 4 {
		w.accumulate(acc, weights, key, value, 0)
		w.Do("ADD %v, %v", w.dim, value)
	}
	w.Do("ADD $16, %v", weight)
	w.Down(count, "keys"+label)
	w.eachRow(func(row int, output R) {
		for i, v := range acc[row] {
			w.StoreQ(v, output, 16*i)
		}
	})
	w.Do("ADD $%d, %v", 16*n, w.o)
	w.Do("ADD $%d, %v", 16*n, w.values)
	w.Do("SUB $%d, %v", 4*n, w.left)
	w.Do("B %s", label)
	w.Label("after" + label)
}

// eachRow runs body for each row with the address of its outputs.
func (w *weighted) eachRow(body func(row int, output R)) {
	w.Scope(func() {
		output := w.Reg()
		w.Do("MOVD %v, %v", w.o, output)
		for row := range w.rows {
			if row > 0 {
				w.Do("ADD %v, %v", w.dim, output)
			}
			body(row, output)
		}
	})
}
