package neongen

// Halves describes formats whose sub-blocks of 16 columns have integer scales of
// their own: the dot products of the two halves of a block are summed apart, and
// then their products with the scales.
type Halves struct {
	// Unpack loads constants and returns the code that leaves columns c..c+3 of a
	// quarter in q, as signed bytes. Columns are asked for in ascending order.
	Unpack func(a *Asm) func(b *Block, q V, quarter, c int)

	// Scales loads constants and returns the code that leaves the scales of a
	// quarter in pairs: int16 numbers, those of the first half low in each lane.
	Scales func(a *Asm) func(b *Block, pairs V, quarter int)
}

// Dot is an Int8.Dot.
func (h Halves) Dot(a *Asm) func(*Block) {
	unpack, scales := h.Unpack(a), h.Scales(a)
	return func(b *Block) {
		second := b.Vecs(len(b.Sum)) // of columns 16..31
		b.Start(b.Sum)
		b.Start(second)
		b.Scope(func() {
			q := b.Vec()
			for _, quarter := range b.Quarters() {
				b.Scope(func() {
					for c := 0; c < 16; c += 4 {
						unpack(b, q, quarter, c)
						b.Add(b.Sum, q, quarter, c)
					}
					for c := 16; c < 32; c += 4 {
						unpack(b, q, quarter, c)
						b.Add(second, q, quarter, c)
					}
				})
			}
		})
		b.scaleHalves(second, scales)
	}
}

// scaleHalves leaves s0·Sum + s1·second in Sum.
func (b *Block) scaleHalves(second []V, scales func(b *Block, pairs V, quarter int)) {
	s0, s1 := b.Vec(), b.Vec()
	for _, quarter := range b.Quarters() {
		scales(b, s1, quarter)
		b.SplitPairs(s0, s1)
		b.each(quarter, func(i, _ int) {
			b.MUL(b.Sum[i], b.Sum[i], s0)
			b.MLA(b.Sum[i], second[i], s1)
		})
	}
}

// SplitPairs extends pairs of int16 numbers in high to 32 bits: the low ones go to
// low, the high ones stay.
func (a *Asm) SplitPairs(low, high V) {
	a.SHL(low, high, 16)
	a.SSHR(low, low, 16)
	a.SSHR(high, high, 16)
}
