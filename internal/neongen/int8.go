package neongen

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Int8 describes a format that takes int8 activations.
type Int8 struct {
	Name  string
	Block int // bytes of a packed block: 16 rows of 32 columns

	// Super is the number of blocks that share their scales, which then lie in
	// Head bytes before those blocks; n counts super-blocks. 0: each block has
	// its own.
	Super, Head int

	Scales int  // offset of 16 binary16 scales, in the block or in the head
	Min    bool // 16 binary16 minimums follow the scales

	// Codes is the offset in the head of 32 bytes for each block: 16 factors of
	// the scales and, with Min, 16 of minimums that are subtracted; 0: none.
	Codes int

	// Factor loads as float32 the factors that 4 lanes of the block put to their
	// scales; nil: none.
	Factor func(b *Block, factor V, quarter int)

	// SubMins loads as integers the minimums of the two halves of a block for 4
	// lanes, in units of the second 16 binary16 scales, which are subtracted
	// with their activations; nil: none. It excludes Min.
	SubMins func(b *Block, low, high V, quarter int)

	// Quarters is the number of quarters in a pass of 4 tokens; 0: 2.
	Quarters int

	// Dot loads constants and returns the code of one block, which leaves the
	// exact integer dot product of each cell in Block.Sum.
	Dot func(a *Asm) func(*Block)
}

// Block is a block of weights and activations inside a pass.
type Block struct {
	*Asm
	Cells []Cell
	Sum   []V // [cell] int32 lanes, written by the format

	k      *kernel
	head   R   // of the scales
	codes  R   // of the block's factors, if the format has Codes
	first  int // token of the pass
	tokens int
	acts   [][2]V // [token] 32 int8
}

// Quarters are the quarters that the block has cells for.
func (b *Block) Quarters() []int {
	var all []int
	for _, c := range b.Cells {
		if c.Token == b.first {
			all = append(all, c.Quarter)
		}
	}
	return all
}

// Weights loads the 16 packed bytes at offset of the block.
func (b *Block) Weights(v V, offset int) { b.LoadQ(v, b.k.wp, offset) }

// Weights8 loads the 8 packed bytes at offset of the block.
func (b *Block) Weights8(v V, offset int) { b.LoadD(v, b.k.wp, offset) }

// Add adds to sum[cell], for the cells of a quarter, signed weights times the 4
// activations from column c on.
func (b *Block) Add(sum []V, weights V, quarter, c int) {
	for i, cell := range b.Cells {
		if cell.Quarter == quarter {
			b.SDOT(sum[i], weights, b.acts[cell.Token-b.first][c/16], c%16/4)
		}
	}
}

// Start sets sum[cell] to zero.
func (b *Block) Start(sum []V) {
	for _, v := range sum {
		b.Zero(v)
	}
}

// StartOffset8 sets Sum to −8·Σq, for weights that are 8 less than their bytes.
func (b *Block) StartOffset8() {
	b.Scope(func() {
		at := b.k.loadTokens(b.tokens, 40*b.k.T+4*b.first)
		for i, c := range b.Cells {
			v, lane := at(c.Token - b.first)
			b.DUP(b.Sum[i], v, lane)
		}
	})
}

// Dots accumulates integer dot products in Block.Sum. When there are few cells it
// deals them to two registers each, so that they do not wait for each other:
// integer sums are exact in any order.
type Dots struct {
	b     *Block
	ways  [][]V
	added int
}

// Dots begins with the sums that Sum holds.
func (b *Block) Dots() *Dots {
	d := &Dots{b: b, ways: [][]V{b.Sum}}
	if len(b.Sum) <= quarters {
		d.ways = append(d.ways, b.Vecs(len(b.Sum)))
		b.Start(d.ways[1])
	}
	return d
}

// Add is Block.Add. Calls that follow each other for one quarter alternate
// between the registers.
func (d *Dots) Add(weights V, quarter, c int) {
	d.b.Add(d.ways[d.added%len(d.ways)], weights, quarter, c)
	d.added++
}

// Join leaves the totals in Block.Sum.
func (d *Dots) Join() {
	for _, way := range d.ways[1:] {
		for i, sum := range d.b.Sum {
			d.b.ADD(sum, sum, way[i])
		}
	}
}

// Nibbles returns the Dot of blocks that begin with interleaved nibbles as Q4_0
// has them: byte i of a lane holds column i (low) and i+16 (high). offset8 says
// that a weight is 8 less than its nibble.
func Nibbles(offset8 bool) func(a *Asm) func(*Block) {
	return func(a *Asm) func(*Block) {
		mask := a.Vec()
		a.MOVIBytes(mask, 15)
		return func(b *Block) {
			if offset8 {
				b.StartOffset8()
			} else {
				b.Start(b.Sum)
			}
			dots := b.Dots()
			low, high := b.Vec(), b.Vec()
			for g := range 4 {
				for _, quarter := range b.Quarters() {
					b.Weights(high, 64*g+16*quarter)
					b.AND(low, high, mask)
					b.USHRBytes(high, high, 4)
					dots.Add(low, quarter, 4*g)
					dots.Add(high, quarter, 16+4*g)
				}
			}
			dots.Join()
		}
	}
}

// Generate writes the kernels of all tile widths.
func (f Int8) Generate() {
	a := &Asm{}
	for _, T := range quant.TileTokens {
		f.generate(a, T)
	}
	a.Generate()
}

func (f Int8) generate(a *Asm, T int) {
	k := open(a, f.Name, T)
	dot := f.Dot(a)
	k.Label("group")
	for i, cells := range f.shape(T).passes(T) {
		k.Scope(func() { f.pass(k, fmt.Sprint("pass", i), cells, dot) })
	}
	k.Do("MOVD %v, %v", k.wp, k.w)
	k.Do("ADD $%d, %v", 4*quant.Lanes, k.out)
	k.Down(k.groups, "group")
	k.Do("RET")
}

func (f Int8) shape(T int) shape {
	switch {
	case T == 1:
		return shape{1, quarters, 1}
	case f.Quarters > 0:
		return shape{4, f.Quarters, 1}
	}
	return shape{4, 2, 1}
}

// pass walks the blocks of one group for some cells and stores their results.
func (f Int8) pass(k *kernel, label string, cells []Cell, dot func(*Block)) {
	acc := k.begin(cells)
	head, inner, codes := k.wp, k.Reg(), R(0)
	k.Label(label)
	if f.Super > 0 {
		head = k.Reg()
		k.Do("MOVD %v, %v", k.wp, head)
		if f.Codes > 0 {
			codes = k.Reg()
			k.Do("ADD $%d, %v, %v", f.Codes, k.wp, codes)
		}
		k.Do("ADD $%d, %v", f.Head, k.wp)
		k.Do("MOVD $%d, %v", f.Super, inner)
		k.Label(label + "block")
	}
	k.Scope(func() {
		b := f.load(k, cells)
		b.head, b.codes = head, codes
		k.Scope(func() { dot(b) })
		f.scale(b, acc)
	})
	k.Do("ADD $%d, %v", f.Block, k.wp)
	k.Do("ADD $%d, %v", quant.ActInt8.ActBytes(k.T, quant.Block), k.ap)
	if f.Super > 0 {
		if f.Codes > 0 {
			k.Do("ADD $%d, %v", 2*quant.Lanes, codes)
		}
		k.Down(inner, label+"block")
	}
	k.Down(k.count, label)
	k.store(cells, acc)
}

// load takes the registers of a block and loads its activations.
func (f Int8) load(k *kernel, cells []Cell) *Block {
	b := &Block{Asm: k.Asm, Cells: cells, Sum: k.Vecs(len(cells)), k: k}
	b.first, b.tokens = tokens(cells)
	for token := b.first; token < b.first+b.tokens; token++ {
		act := [2]V{k.Vec(), k.Vec()}
		for half, v := range act {
			k.LoadQ(v, k.ap, quant.Block*token+16*half)
		}
		b.acts = append(b.acts, act)
	}
	return b
}
