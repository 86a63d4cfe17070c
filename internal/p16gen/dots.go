package p16gen

import (
	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/reg"
)

// Dots512 accumulates integer dot products with VPDPBUSD. With a single cell it
// deals them to several registers, so that they do not wait for each other:
// integer sums are exact in any order.
type Dots512 struct {
	b     *Block
	ways  [][]reg.VecVirtual // [cell][way]; way 0 is Block.Sum
	added int
}

// NewDots512 begins with the sums that b.Sum holds; ways is the number of
// registers of a single cell.
func NewDots512(b *Block, ways int) *Dots512 {
	d := &Dots512{b: b}
	if len(b.Cells) > 1 {
		ways = 1
	}
	for _, sum := range b.Sum {
		cell := []reg.VecVirtual{sum}
		for range ways - 1 {
			v := ZMM()
			Zero512(v)
			cell = append(cell, v)
		}
		d.ways = append(d.ways, cell)
	}
	return d
}

// Add adds unsigned bytes times the 4 activations from column c on, for all
// cells.
func (d *Dots512) Add(u8 reg.VecVirtual, c int) {
	for i, cell := range d.ways {
		VPDPBUSD_BCST(d.b.Act(i, c), u8, cell[d.added%len(cell)])
	}
	d.added++
}

// Join leaves the totals in Block.Sum.
func (d *Dots512) Join() {
	for _, cell := range d.ways {
		for n := len(cell); n > 1; n /= 2 {
			for i := range n / 2 {
				VPADDD(cell[i+n/2], cell[i], cell[i])
			}
		}
	}
}
