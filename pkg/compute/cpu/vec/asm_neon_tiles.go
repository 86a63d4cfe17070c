//go:build ignore

package main

import . "github.com/shoal-llm/shoal/internal/neongen"

// quantize writes quant.ActInt8, a block at a time.
func (a *writer) quantize() {
	a.Func("neonQuantize", "func(tile *byte, x *float32, blocks, T, t int)", "quantises blocks of 32 values as token t of T", 0)
	values, x, blocks, T, t := a.Arg("tile"), a.Arg("x"), a.Arg("blocks"), a.Arg("T"), a.Arg("t")
	numbers, stride := a.Reg(), a.Reg()
	a.Do("LSL $2, %v", T) // bytes from one number of the token to the next
	a.Do("ADD %v<<3, %v, %v", T, values, numbers)
	a.Do("ADD %v<<2, %v", t, numbers)
	a.Do("ADD %v<<5, %v", t, values)
	a.Do("ADD %v<<1, %v, %v", T, T, stride)
	a.Do("LSL $2, %v", stride) // bytes of a block
	magnitude, tiny := a.Constant(1<<31-1), a.constant(1e-30)
	step, one := a.constant(1.0/127.0), a.constant(1)
	v := a.Vecs(8)
	a.Label("loop")
	for i, w := range v {
		a.LoadQ(w, x, 16*i)
	}
	d, inverse := a.Vec(), a.Vec()
	a.largest(d, v, magnitude)
	zeros := a.Vec()
	a.FCMGT(zeros, tiny, d)
	a.FMULScalar(d, d, step)
	a.FDIVScalar(inverse, one, d)
	a.BIC(d, d, zeros)
	a.BIC(inverse, inverse, zeros)
	for _, w := range v {
		a.FMULElement(w, w, inverse, 0)
		a.FCVTNS(w, w)
	}
	q := a.Vecs(2)
	a.NarrowWords(q[0], [4]V(v[:4]))
	a.NarrowWords(q[1], [4]V(v[4:]))
	a.StoreQ(q[0], values, 0)
	a.StoreQ(q[1], values, 16)
	a.storeNumbers(d, q, numbers, T)
	a.Do("ADD $%d, %v", 128, x)
	a.Do("ADD %v, %v", stride, values)
	a.Do("ADD %v, %v", stride, numbers)
	a.Down(blocks, "loop")
	a.Do("RET")
}

// largest leaves in lane 0 the largest magnitude. They are compared as integers,
// where a NaN is the largest.
func (a *writer) largest(d V, v []V, magnitude V) {
	a.Scope(func() {
		most := a.Vecs(2)
		for i, w := range v {
			if i < len(most) {
				a.AND(most[i], w, magnitude)
				continue
			}
			a.AND(d, w, magnitude)
			a.UMAX(most[i%2], most[i%2], d)
		}
		a.UMAX(d, most[0], most[1])
		a.UMAXV(d, d)
	})
}

// storeNumbers writes d, d·Σq, −8·Σq, and the sums of the halves as int16. The
// registers q are overwritten.
func (a *writer) storeNumbers(d V, q []V, numbers, T R) {
	a.Scope(func() {
		at, first, second, total := a.Reg(), a.Reg(), a.Reg(), a.Reg()
		ds := q[0]
		a.SADDLV(q[0], q[0])
		a.SADDLV(q[1], q[1])
		a.SMOV(first, q[0])
		a.SMOV(second, q[1])
		a.Do("ADDW %v, %v, %v", first, second, total)
		a.SCVTFGeneral(ds, total)
		a.FMULScalar(ds, d, ds)
		a.Do("NEGW %v<<3, %v", total, total)
		a.Do("ANDW $0xffff, %v", first)
		a.Do("ORRW %v<<16, %v", second, first)
		a.StoreS(d, numbers, 0)
		a.Do("ADD %v, %v, %v", T, numbers, at)
		a.StoreS(ds, at, 0)
		a.Do("ADD %v, %v", T, at)
		a.Do("MOVW %v, (%v)", total, at)
		a.Do("ADD %v, %v", T, at)
		a.Do("MOVW %v, (%v)", first, at)
	})
}

// tile scatters values, or copies them when they stay side by side.
func (a *writer) tile() {
	a.Func("neonTile", "func(dst *byte, x *float32, n, stride int)", "writes value i at byte i·stride of dst", 0)
	dst, x, n, stride := a.Arg("dst"), a.Arg("x"), a.Arg("n"), a.Arg("stride")
	v := a.Vec()
	// each walks the values step by step while so many are left.
	each := func(label, after string, step int, body func()) {
		a.Label(label)
		a.Do("CMP $%d, %v", step, n)
		a.Do("BLT %s", after)
		body()
		a.Do("ADD $%d, %v", 4*step, x)
		a.Do("SUB $%d, %v", step, n)
		a.Do("B %s", label)
	}
	a.Do("CMP $4, %v", stride)
	a.Do("BNE scatter")
	each("copy", "one", 4, func() {
		a.LoadQ(v, x, 0)
		a.StoreQ(v, dst, 0)
		a.Do("ADD $16, %v", dst)
	})
	each("scatter", "one", 4, func() {
		a.LoadQ(v, x, 0)
		for i := range 4 {
			a.ST1(v, i, dst, stride)
		}
	})
	each("one", "end", 1, func() {
		a.LoadS(v, x, 0)
		a.ST1(v, 0, dst, stride)
	})
	a.Label("end")
	a.Do("RET")
}

// turn is the state of a rotation: heads heads of dim bytes at x.
type turn struct {
	*writer
	x, cos, sin, heads, dim, pairs R
	c, s                           V // angles of 4 pairs
}

func (a *writer) openTurn(name, doc string) turn {
	a.Func(name, "func(x, cos, sin *float32, heads, dim, pairs int)", doc, 0)
	t := turn{a, a.Arg("x"), a.Arg("cos"), a.Arg("sin"), a.Arg("heads"), a.Arg("dim"), a.Arg("pairs"), a.Vec(), a.Vec()}
	a.Do("LSL $2, %v", t.dim)
	return t
}

// eachHead walks all heads for the same 4 pairs, then moves on to the next ones,
// bytes further. body turns them in a head.
func (t turn) eachHead(bytes int, body func(head R)) {
	head, count := t.Reg(), t.Reg()
	t.Label("pairs")
	t.LoadQ(t.c, t.cos, 0)
	t.LoadQ(t.s, t.sin, 0)
	t.Do("MOVD %v, %v", t.x, head)
	t.Do("MOVD %v, %v", t.heads, count)
	t.Label("head")
	body(head)
	t.Do("ADD %v, %v", t.dim, head)
	t.Down(count, "head")
	t.Do("ADD $%d, %v", bytes, t.x)
	t.Do("ADD $16, %v", t.cos)
	t.Do("ADD $16, %v", t.sin)
	t.Do("SUBS $4, %v, %v", t.pairs, t.pairs)
	t.Do("BNE pairs")
	t.Do("RET")
}

// pair turns the pairs (a, b) into (fma(a, cos, −(b·sin)), fma(b, cos, a·sin)) in
// x and y.
func (t turn) pair(a, b, x, y V) {
	t.FMUL(x, b, t.s)
	t.FMUL(y, a, t.s)
	t.FNEG(x, x)
	t.FMLA(x, a, t.c)
	t.FMLA(y, b, t.c)
}

func (a *writer) rotateHalves() {
	t := a.openTurn("neonRotateHalves", "turns pairs (i, i+pairs) of each head, a multiple of 4,")
	far, other := a.Reg(), a.Reg()
	a.Do("LSL $2, %v, %v", t.pairs, far)
	v := a.Vecs(4)
	t.eachHead(16, func(head R) {
		a.Do("ADD %v, %v, %v", far, head, other)
		a.LoadQ(v[0], head, 0)
		a.LoadQ(v[1], other, 0)
		t.pair(v[0], v[1], v[2], v[3])
		a.StoreQ(v[2], head, 0)
		a.StoreQ(v[3], other, 0)
	})
}

func (a *writer) rotatePairs() {
	t := a.openTurn("neonRotatePairs", "turns pairs (2i, 2i+1) of each head, a multiple of 4,")
	v := a.Vecs(4)
	t.eachHead(32, func(head R) {
		a.LD2(v[0], head)
		t.pair(v[0], v[1], v[2], v[3])
		a.ST2(v[2], head)
	})
}
