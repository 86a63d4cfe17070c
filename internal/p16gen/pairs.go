package p16gen

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Pairs of groups. What limits a single token is how many bytes a core has asked
// memory for and not received yet. Hardware prefetchers follow each place that is
// read in order on its own, so the kernel reads at two: it walks the first half of
// the groups and the second one side by side, block by block. The order of the
// operations of a row is that of a walk through one group.

// pair addresses the second group of a pair.
type pair struct {
	far reg.GPVirtual // bytes from the weights of the first group to the second's
	out reg.GPVirtual // bytes from the outputs of the first group to the second's
}

// pairs generates the walk of a single token over all groups: walk generates the
// pass over a pair or, with nil, over one group, and leaves k.wp at the end of
// the first group. step is the bytes of one step of k.n.
func (k *kernel) pairs(step int, walk func(label string, p *pair)) {
	left := GP64()
	p := &pair{far: GP64(), out: GP64()}
	MOVQ(k.groups, left)
	SHRQ(Imm(1), left)
	IMUL3Q(U32(uint32(step)), k.n, p.far)
	IMULQ(left, p.far)
	MOVQ(left, p.out)
	SHLQ(Imm(6), p.out) // 4·quant.Lanes
	ANDQ(Imm(1), k.groups)
	TESTQ(left, left)
	JZ(LabelRef("odd"))
	Label("pair")
	walk("pairpass", p)
	MOVQ(k.wp, k.w)
	ADDQ(Imm(4*quant.Lanes), k.out)
	down(left, "pair")
	ADDQ(p.far, k.w)
	ADDQ(p.out, k.out)
	Label("odd")
	TESTQ(k.groups, k.groups)
	JZ(LabelRef("done"))
	walk("pass", nil)
	Label("done")
	k.close()
}

// storePair writes the accumulators of a pass over a pair: those of the first
// group, then those of the second.
func (k *kernel) storePair(cells []Cell, acc [][]reg.VecVirtual, p *pair) {
	for g, vectors := range acc {
		for i, c := range cells {
			to := Mem{Base: k.out, Disp: k.bytes * c.Half}
			if g > 0 {
				to.Index, to.Scale = p.out, 1
			}
			VMOVUPS(vectors[i], to)
		}
	}
}

// groups returns how many groups a pass walks.
func (p *pair) groups() int {
	if p == nil {
		return 1
	}
	return 2
}

// of addresses what lies at m in the first group in group g.
func (p *pair) of(g int, m Mem) Mem {
	if g > 0 {
		m.Index, m.Scale = p.far, 1
	}
	return m
}
