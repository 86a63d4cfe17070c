//go:build ignore

package main

import . "github.com/shoal-llm/shoal/internal/neongen"

// eachBlock runs body for each register of each block of 16 values; offset is
// from the pointers, which move on.
func (a *writer) eachBlock(pointers []R, body func(offset int)) {
	blocks := a.Arg("blocks")
	a.Do("CBZ %v, end", blocks)
	a.Label("loop")
	for part := range parts {
		a.Scope(func() { body(16 * part) })
	}
	for _, p := range pointers {
		a.Do("ADD $%d, %v", 4*lanes, p)
	}
	a.Down(blocks, "loop")
	a.Label("end")
	a.Do("RET")
}

// sumSq does the last n mod 16 values as a block with zeros behind them, whose
// squares change no sum of squares.
func (a *writer) sumSq() {
	a.Func("neonSumSq", "func(x *float32, n int) (ret float32)", "sums the squares of n values", 4*lanes)
	x, n, blocks, block := a.Arg("x"), a.Arg("n"), a.Reg(), a.Reg()
	sum := a.Vecs(parts)
	for _, v := range sum {
		a.Zero(v)
	}
	add := func(from R) {
		for part, v := range sum {
			a.Scope(func() {
				t := a.Vec()
				a.LoadQ(t, from, 16*part)
				a.FMLA(v, t, t)
			})
		}
	}
	a.Do("LSR $4, %v, %v", n, blocks)
	a.Do("CBZ %v, tail", blocks)
	a.Label("loop")
	add(x)
	a.Do("ADD $%d, %v", 4*lanes, x)
	a.Down(blocks, "loop")
	a.Label("tail")
	a.Do("AND $%d, %v", lanes-1, n)
	a.Do("CBZ %v, join", n)
	zero, value, at := a.Vec(), a.Reg(), a.Reg()
	a.Do("MOVD $block-%d(SP), %v", 4*lanes, block)
	a.Zero(zero)
	for part := range parts {
		a.StoreQ(zero, block, 16*part)
	}
	a.Do("MOVD %v, %v", block, at)
	a.Label("copy")
	a.Do("MOVWU.P 4(%v), %v", x, value)
	a.Do("MOVW.P %v, 4(%v)", value, at)
	a.Down(n, "copy")
	add(block)
	a.Label("join")
	a.Return(a.join(sum))
}

func (a *writer) norm() {
	a.Func("neonNorm", "func(dst, x, gain *float32, blocks int, s float32)", "scales blocks of 16 values", 0)
	dst, x, gain, s := a.Arg("dst"), a.Arg("x"), a.Arg("gain"), a.Spread("s")
	a.eachBlock([]R{dst, x, gain}, func(offset int) {
		v, g := a.Vec(), a.Vec()
		a.LoadQ(v, x, offset)
		a.LoadQ(g, gain, offset)
		a.FMUL(v, v, s)
		a.FMUL(v, v, g)
		a.StoreQ(v, dst, offset)
	})
}

func (a *writer) add() {
	a.Func("neonAdd", "func(x, y *float32, blocks int)", "adds blocks of 16 values", 0)
	x, y := a.Arg("x"), a.Arg("y")
	a.eachBlock([]R{x, y}, func(offset int) {
		v, w := a.Vec(), a.Vec()
		a.LoadQ(v, x, offset)
		a.LoadQ(w, y, offset)
		a.FADD(v, v, w)
		a.StoreQ(v, x, offset)
	})
}

func (a *writer) expRow() {
	a.Func("neonExp", "func(dst, x *float32, blocks int)", "exponentiates blocks of 16 values", 0)
	dst, x, e := a.Arg("dst"), a.Arg("x"), a.exponential()
	a.eachBlock([]R{dst, x}, func(offset int) {
		v := a.Vec()
		a.LoadQ(v, x, offset)
		e.apply(v)
		a.StoreQ(v, dst, offset)
	})
}

// gated generates dst = g/(1 + exp(−z))·up; exponent returns code for z of a
// register of g.
func (a *writer) gated(name string, exponent func() func(z, g V)) {
	a.Func("neon"+name, "func(dst, gate, up *float32, blocks int)", "writes the gated "+name+" of blocks of 16 values", 0)
	dst, gate, up, e := a.Arg("dst"), a.Arg("gate"), a.Arg("up"), a.exponential()
	argument := exponent()
	a.eachBlock([]R{dst, gate, up}, func(offset int) {
		g, z, u := a.Vec(), a.Vec(), a.Vec()
		a.LoadQ(g, gate, offset)
		a.LoadQ(u, up, offset)
		argument(z, g)
		a.FNEG(z, z)
		e.apply(z)
		a.FADD(z, z, e.one)
		a.FDIV(g, g, z)
		a.FMUL(g, g, u)
		a.StoreQ(g, dst, offset)
	})
}

func (a *writer) silu() func(z, g V) { return a.MOV }

// The numbers of portable.go.
const (
	geluLinear = float32(2 * 0.79788456080286535588)
	geluCubic  = float32(2 * 0.79788456080286535588 * 0.044715)
)

func (a *writer) gelu() func(z, g V) {
	linear, cubic := a.constant(geluLinear), a.constant(geluCubic)
	return func(z, g V) {
		a.Scope(func() {
			square := a.Vec()
			a.FMUL(square, g, g)
			a.MOV(z, linear)
			a.FMLA(z, square, cubic)
			a.FMUL(z, g, z)
		})
	}
}

func (a *writer) finish() {
	a.Func("neonFinish", "func(dst, o, row *float32, n int)", "divides n outputs, a multiple of 8, by the sum of a row", 0)
	dst, o, row, n := a.Arg("dst"), a.Arg("o"), a.Arg("row"), a.Arg("n")
	a.Do("CBZ %v, end", n)
	sum := a.Vecs(parts)
	for part, v := range sum {
		a.LoadQ(v, row, rowSum+16*part)
	}
	inverse, zero := a.constant(1), a.Vec()
	a.FDIVScalar(inverse, inverse, a.join(sum))
	a.Zero(zero)
	a.Label("loop")
	for offset := range 2 {
		v := sum[offset]
		a.LoadQ(v, o, 16*offset)
		a.FMULElement(v, v, inverse, 0)
		a.FADD(v, v, zero)
		a.StoreQ(v, dst, 16*offset)
	}
	a.Do("ADD $32, %v", o)
	a.Do("ADD $32, %v", dst)
	a.Do("SUBS $8, %v, %v", n, n)
	a.Do("BNE loop")
	a.Label("end")
	a.Do("RET")
}
