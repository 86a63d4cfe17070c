//go:build ignore

// Generates the NEON kernels of package vec, in which 4 registers are the 16
// virtual lanes of its specification.
package main

import (
	"math"

	. "github.com/shoal-llm/shoal/internal/neongen"
)

const (
	lanes     = 16 // virtual lanes, and values of a block
	parts     = lanes / 4
	keys      = 64 // keys of a page
	keysBytes = 4 * keys
	maxRows   = 6 // query rows that may share a page
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

func main() {
	a := &writer{&Asm{}}
	a.sumSq()
	a.norm()
	a.add()
	a.expRow()
	a.gated("SiLU", a.silu)
	a.gated("GELU", a.gelu)
	a.finish()
	a.quantize()
	a.tile()
	a.rotateHalves()
	a.rotatePairs()
	for rows := 1; rows <= maxRows; rows++ {
		a.score(rows)
		a.values(rows)
	}
	a.softmax()
	a.Generate()
}

// writer is the assembler with what several kernels share.
type writer struct{ *Asm }

// constant returns a register with x in each lane.
func (a *writer) constant(x float32) V { return a.Constant(math.Float32bits(x)) }

// join leaves in lane 0 the sum of the 16 lanes of v, joined by halves.
func (a *writer) join(v []V) V {
	sum, t := v[0], v[2]
	a.FADD(v[0], v[0], v[2])
	a.FADD(v[1], v[1], v[3])
	a.FADD(sum, v[0], v[1])
	a.EXT(t, sum, sum, 8)
	a.FADD(sum, sum, t)
	a.DUP(t, sum, 1)
	a.FADD(sum, sum, t)
	return sum
}

// exponential is the code of exp32 (portable.go) and the constants it needs.
type exponential struct {
	a                                               *writer
	least, most, log2e, round, high, low, one, bias V

	polynomial []V // from the highest degree on
}

func (a *writer) exponential() *exponential {
	e := &exponential{
		a:     a,
		least: a.constant(-87),
		most:  a.constant(88),
		log2e: a.constant(1.44269504088896340736),
		round: a.constant(0x1.8p23),
		high:  a.constant(-0.693359375),
		low:   a.constant(2.12194440054690583e-4),
		one:   a.constant(1),
		bias:  a.Constant(127 << 23),
	}
	for _, c := range []float32{0x1.6a4748p-10, 0x1.1239a2p-7, 0x1.5558b6p-5, 0x1.555492p-3, 0x1.fffffcp-2} {
		e.polynomial = append(e.polynomial, a.constant(c))
	}
	e.polynomial = append(e.polynomial, e.one, e.one)
	return e
}

// apply replaces x by e to its power. The bounds keep a NaN.
func (e *exponential) apply(x V) {
	a := e.a
	a.Scope(func() {
		n, exponent, p := a.Vec(), a.Vec(), a.Vec()
		a.FMIN(x, x, e.most)
		a.FMAX(x, x, e.least)
		a.FMUL(n, x, e.log2e)
		a.FADD(n, n, e.round)
		a.SHL(exponent, n, 23)
		a.FSUB(n, n, e.round)
		a.FMLA(x, n, e.high)
		a.FMLA(x, n, e.low)
		a.MOV(p, e.polynomial[0])
		next := n // which is not needed any more
		for _, c := range e.polynomial[1:] {
			a.MOV(next, c)
			a.FMLA(next, p, x)
			p, next = next, p
		}
		a.ADD(exponent, exponent, e.bias)
		a.FMUL(x, p, exponent)
	})
}
