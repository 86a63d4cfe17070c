package neongen

import "github.com/shoal-llm/shoal/pkg/quant"

// scale adds the block's sums to the accumulators: acc = fma(isum, dw·da, acc)
// and, with a minimum, acc = fma(mw, ds, acc).
func (f Int8) scale(b *Block, acc []V) {
	da := b.k.loadTokens(b.tokens, 32*b.k.T+4*b.first)
	var ds func(int) (V, int)
	mw := V(0)
	if f.Min {
		ds = b.k.loadTokens(b.tokens, 36*b.k.T+4*b.first)
		mw = b.Vec()
	}
	dw, d := b.Vec(), b.Vec()
	for _, quarter := range b.Quarters() {
		b.halfs(dw, f.Scales, quarter)
		if f.Min {
			b.halfs(mw, f.Scales+2*quant.Lanes, quarter)
		}
		f.refine(b, dw, mw, d, quarter)
		b.each(quarter, func(i, token int) {
			b.SCVTF(b.Sum[i], b.Sum[i])
			v, lane := da(token)
			b.FMULElement(d, dw, v, lane)
			b.FMLA(acc[i], b.Sum[i], d)
			if f.Min {
				v, lane := ds(token)
				b.FMLAElement(acc[i], mw, v, lane)
			}
		})
	}
	if f.SubMins != nil {
		b.Scope(func() { f.subtract(b, da, acc) })
	}
}

// refine multiplies scales, and minimums, with the block's own factors. Products
// of a binary16 number and such a factor are exact.
func (f Int8) refine(b *Block, dw, mw, factor V, quarter int) {
	if f.Factor != nil {
		f.Factor(b, factor, quarter)
		b.FMUL(dw, dw, factor)
	}
	if f.Codes == 0 {
		return
	}
	b.unsigned(factor, b.codes, 4*quarter)
	b.FMUL(dw, dw, factor)
	if f.Min {
		b.unsigned(factor, b.codes, quant.Lanes+4*quarter)
		b.FMUL(mw, mw, factor)
		b.FNEG(mw, mw)
	}
}

// subtract adds the minimums of halves: acc = fma(−(m0·Σq₀ + m1·Σq₁), dmin·da, acc).
func (f Int8) subtract(b *Block, da func(int) (V, int), acc []V) {
	sums := b.k.loadTokens(b.tokens, 44*b.k.T+4*b.first) // pairs of int16
	low := map[V]V{}                                     // by the register that then holds the high ones
	for token := range b.tokens {
		v, _ := sums(token)
		if _, done := low[v]; !done {
			low[v] = b.Vec()
			b.SplitPairs(low[v], v)
		}
	}
	dmin, m0, m1, sum, d := b.Vec(), b.Vec(), b.Vec(), b.Vec(), b.Vec()
	for _, quarter := range b.Quarters() {
		b.halfs(dmin, f.Scales+2*quant.Lanes, quarter)
		f.SubMins(b, m0, m1, quarter)
		b.each(quarter, func(i, token int) {
			v, lane := sums(token)
			b.MULElement(sum, m0, low[v], lane)
			b.MLAElement(sum, m1, v, lane)
			b.SCVTF(sum, sum)
			v, lane = da(token)
			b.FMULElement(d, dmin, v, lane)
			b.FMLS(acc[i], sum, d)
		})
	}
}

// each calls f for the cells of a quarter; token counts from the pass's first.
func (b *Block) each(quarter int, f func(cell, token int)) {
	for i, c := range b.Cells {
		if c.Quarter == quarter {
			f(i, c.Token-b.first)
		}
	}
}

// halfs loads 4 of 16 binary16 numbers at offset of the head as float32.
func (b *Block) halfs(v V, offset, quarter int) {
	b.LoadD(v, b.head, offset+8*quarter)
	b.FCVTL(v, v)
}

// unsigned loads 4 unsigned bytes as float32.
func (b *Block) unsigned(v V, base R, offset int) {
	b.LoadS(v, base, offset)
	b.UXTL(v, v)
	b.UXTLHalfs(v, v)
	b.SCVTF(v, v)
}

// Signed loads 4 signed bytes at offset of the block as float32.
func (b *Block) Signed(v V, offset int) {
	b.LoadS(v, b.k.wp, offset)
	b.SXTL(v, v)
	b.SXTLHalfs(v, v)
	b.SCVTF(v, v)
}
