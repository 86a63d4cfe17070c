package neongen

// fifthsAt is the offset of fifth bits in a block: they follow its nibbles.
const fifthsAt = 256

// Fives returns the Dot of blocks of nibbles and fifth bits (p16.LayFifths).
// offset16 says that a weight is 16 less than its 5 bits.
func Fives(offset16 bool) func(a *Asm) func(*Block) {
	return func(a *Asm) func(*Block) {
		nibble, fifth := a.Vec(), a.Vec()
		a.MOVIBytes(nibble, 0x0f)
		a.MOVIBytes(fifth, 0x10)
		return func(b *Block) {
			if offset16 {
				b.StartOffset8()
				for _, v := range b.Sum {
					b.ADD(v, v, v)
				}
			} else {
				b.Start(b.Sum)
			}
			dots := b.Dots()
			low, high, bits, t := b.Vec(), b.Vec(), b.Vec(), b.Vec()
			for _, quarter := range b.Quarters() {
				b.Weights(bits, fifthsAt+16*quarter)
				for g := range 4 {
					b.Weights(high, 64*g+16*quarter)
					b.AND(low, high, nibble)
					b.USHRBytes(high, high, 4)
					if g == 0 {
						b.BIT(low, bits, fifth)
					} else {
						b.USHRBytes(t, bits, g)
						b.BIT(low, t, fifth)
					}
					b.SHLBytes(t, bits, 4-g)
					b.BIT(high, t, fifth)
					dots.Add(low, quarter, 4*g)
					dots.Add(high, quarter, 16+4*g)
				}
			}
			dots.Join()
		}
	}
}

// Codebook returns the Dot of blocks of interleaved nibbles that are the places of
// their weights in a table.
func Codebook(values [16]int8) func(a *Asm) func(*Block) {
	return func(a *Asm) func(*Block) {
		nibble, table := a.Vec(), a.Vec()
		a.MOVIBytes(nibble, 0x0f)
		a.setBytes(table, values)
		return func(b *Block) {
			b.Start(b.Sum)
			dots := b.Dots()
			low, high := b.Vec(), b.Vec()
			for g := range 4 {
				for _, quarter := range b.Quarters() {
					b.Weights(high, 64*g+16*quarter)
					b.AND(low, high, nibble)
					b.USHRBytes(high, high, 4)
					b.TBL(low, table, low)
					b.TBL(high, table, high)
					dots.Add(low, quarter, 4*g)
					dots.Add(high, quarter, 16+4*g)
				}
			}
			dots.Join()
		}
	}
}

// setBytes sets the 16 bytes of d.
func (a *Asm) setBytes(d V, values [16]int8) {
	a.Scope(func() {
		r := a.Reg()
		for i := range 4 {
			word := uint32(0)
			for j, v := range values[4*i:][:4] {
				word |= uint32(uint8(v)) << (8 * j)
			}
			a.Do("MOVW $%#x, %v", word, r)
			a.INS(d, i, r)
		}
	})
}

// Coded returns a format of super-blocks of 8 blocks with codes of scales and
// minimums in their heads (pkg/quant/kquant).
func Coded(name string, block int, dot func(a *Asm) func(*Block)) Int8 {
	return Int8{Name: name, Block: block, Super: 8, Head: 320, Codes: 64, Min: true, Dot: dot}
}
