//go:build ignore

package main

import . "github.com/shoal-llm/shoal/internal/neongen"

// soft is the state of the softmax kernel.
type soft struct {
	*writer
	s, row, at, count       R
	scale, cap, hidden, two V
	exp                     *exponential
	first, last, index      V // keys seen, and the keys of the register at hand
	start, four             V // what index begins with and goes on by
	perRow                  []V
}

// softmax generates the online softmax of a page. Scaled and masked scores go
// from the search of the largest to the powers through memory.
func (a *writer) softmax() {
	a.Func("neonSoftmax", "func(s, rows *float32, n int, scale, softCap float32)", "makes weights of the scores of n rows", 0)
	f := soft{writer: a, s: a.Arg("s"), row: a.Arg("rows"), at: a.Reg(), count: a.Reg()}
	n, bits := a.Arg("n"), a.Reg()
	f.scale, f.cap = a.Spread("scale"), a.Spread("softCap")
	f.hidden, f.two, f.exp = a.constant(-1e30), a.constant(2), a.exponential()
	f.first, f.last, f.index, f.start, f.four = a.Vec(), a.Vec(), a.Vec(), a.Vec(), a.Constant(4)
	a.Zero(f.start)
	for i := 1; i < 4; i++ {
		a.Do("MOVW $%d, %v", i, bits)
		a.INS(f.start, i, bits)
	}
	f.perRow = a.Vecs(parts)
	a.Label("row")
	f.look()
	a.LoadS(f.perRow[0], f.row, rowMax)
	for _, v := range f.perRow {
		a.DUP(v, f.perRow[0], 0)
	}
	a.FMOVGeneral(bits, f.cap)
	a.Do("LSLW $1, %v", bits)
	a.Do("CBNZW %v, capped", bits)
	f.scores("plain", func(V) {})
	a.Do("B scored")
	a.Label("capped")
	f.scores("limited", f.limit)
	a.Label("scored")
	f.join(bits)
	f.weights()
	a.Do("ADD $%d, %v", keysBytes, f.s)
	a.Do("ADD $%d, %v", rowBytes, f.row)
	a.Down(n, "row")
	a.Do("RET")
}

// look loads what the row sees.
func (f *soft) look() {
	f.LoadS(f.first, f.row, rowFirst)
	f.LoadS(f.last, f.row, rowLast)
	f.DUP(f.first, f.first, 0)
	f.DUP(f.last, f.last, 0)
}

// sees sets lanes of mask to ones where the keys at hand are seen, and goes on to
// the next ones.
func (f *soft) sees(mask V) {
	f.Scope(func() {
		before := f.Vec()
		f.CMGE(mask, f.index, f.first)
		f.CMGE(before, f.last, f.index)
		f.AND(mask, mask, before)
		f.ADD(f.index, f.index, f.four)
	})
}

// limit replaces x by cap·(1 − 2/(exp(2x/cap) + 1)).
func (f *soft) limit(x V) {
	f.FDIV(x, x, f.cap)
	f.FADD(x, x, x)
	f.exp.apply(x)
	f.FADD(x, x, f.exp.one)
	f.FDIV(x, f.two, x)
	f.FSUB(x, f.exp.one, x)
	f.FMUL(x, x, f.cap)
}

// begin points at the first keys of the row.
func (f *soft) begin(blocks int) {
	f.MOV(f.index, f.start)
	f.Do("MOVD %v, %v", f.s, f.at)
	f.Do("MOVD $%d, %v", blocks, f.count)
}

// scores leaves the scaled scores in memory and the largest one of each lane in
// perRow: the first of those that are equal, and never a NaN.
func (f *soft) scores(label string, limit func(x V)) {
	f.begin(keys / lanes)
	f.Label(label)
	for part, largest := range f.perRow {
		f.Scope(func() {
			x := f.Vec()
			f.LoadQ(x, f.at, 16*part)
			f.FMUL(x, x, f.scale)
			limit(x)
			mask := f.Vec()
			f.sees(mask)
			f.BIF(x, f.hidden, mask)
			f.StoreQ(x, f.at, 16*part)
			f.FCMGT(mask, x, largest)
			f.BIT(largest, x, mask)
		})
	}
	f.Do("ADD $%d, %v", 4*lanes, f.at)
	f.Down(f.count, label)
}

// join makes the largest value of all lanes the row's maximum, and leaves it in
// perRow[0] and the old one minus the new one in perRow[1]. Zeros of both signs
// may have met; then the first zero of the page is the largest, unless the row
// has had one (which all lanes hold).
func (f *soft) join(bits R) {
	most, old := f.perRow[0], f.perRow[1]
	f.FMAX(f.perRow[2], f.perRow[2], f.perRow[3])
	f.FMAX(most, most, old)
	f.FMAX(most, most, f.perRow[2])
	f.FMAXV(most, most)
	f.LoadS(old, f.row, rowMax)
	f.FMOVGeneral(bits, most)
	f.Do("LSLW $1, %v", bits)
	f.Do("CBNZW %v, joined", bits)
	f.FMOVGeneral(bits, old)
	f.Do("LSLW $1, %v", bits)
	f.Do("CBZW %v, joined", bits)
	f.Do("MOVD %v, %v", f.s, f.at)
	f.Label("zero")
	f.LoadS(most, f.at, 0)
	f.Do("ADD $4, %v", f.at)
	f.FMOVGeneral(bits, most)
	f.Do("LSLW $1, %v", bits)
	f.Do("CBNZW %v, zero", bits)
	f.Label("joined")
	f.FSUBScalar(old, old, most)
	f.StoreS(most, f.row, rowMax)
	f.DUP(most, most, 0)
	f.DUP(old, old, 0)
}

// weights makes weights of the scores, and the row's scale of the difference
// that join has left, and updates the row's sum.
func (f *soft) weights() {
	f.Scope(func() {
		largest, scale := f.Vec(), f.Vec()
		f.MOV(largest, f.perRow[0])
		f.MOV(scale, f.perRow[1])
		f.exp.apply(scale)
		f.StoreS(scale, f.row, rowScale)
		for part, sum := range f.perRow {
			f.LoadQ(sum, f.row, rowSum+16*part)
		}
		f.begin(keys/lanes - 1)
		f.block(largest, func(sum, e V) {
			f.FMLA(e, sum, scale)
			f.MOV(sum, e)
		})
		f.Label("weights")
		f.block(largest, func(sum, e V) { f.FADD(sum, sum, e) })
		f.Down(f.count, "weights")
		for part, sum := range f.perRow {
			f.StoreQ(sum, f.row, rowSum+16*part)
		}
	})
}

// block makes weights e of 16 scores and calls add for each register.
func (f *soft) block(largest V, add func(sum, e V)) {
	for part, sum := range f.perRow {
		f.Scope(func() {
			e := f.Vec()
			f.LoadQ(e, f.at, 16*part)
			f.FSUB(e, e, largest)
			f.exp.apply(e)
			mask := f.Vec()
			f.sees(mask)
			f.AND(e, e, mask)
			f.StoreQ(e, f.at, 16*part)
			add(sum, e)
		})
	}
	f.Do("ADD $%d, %v", 4*lanes, f.at)
}
