package p16gen

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// level is an instruction set to generate for.
type level struct {
	name  string
	title string
	bytes int // of a vector register
}

var (
	avx2   = level{"avx2", "AVX2", 32}
	avx512 = level{"avx512", "AVX-512", 64}
)

// vec returns a new vector register.
func (l level) vec() reg.VecVirtual {
	if l == avx512 {
		return ZMM()
	}
	return YMM()
}

// vecs returns n new vector registers.
func (l level) vecs(n int) []reg.VecVirtual {
	v := make([]reg.VecVirtual, n)
	for i := range v {
		v[i] = l.vec()
	}
	return v
}

// zero clears v.
func (l level) zero(v reg.VecVirtual) {
	if l == avx512 {
		Zero512(v)
	} else {
		VPXOR(v, v, v)
	}
}

// halves returns in how many registers the float32 values of 16 lanes fit.
func (l level) halves() int { return 4 * quant.Lanes / l.bytes }

// Cell is what one accumulator of a pass holds: the dot products of some lanes
// of a group with one token.
type Cell struct {
	Group int // counted from the group that the pass begins with
	Half  int // AVX2: lanes 0..7 or 8..15
	Token int
}

// passes divides tokens × halves × groups into passes of at most tokens tokens
// and halves halves each.
func passes(l level, T, tokens, halves, groups int) [][]Cell {
	var all [][]Cell
	for h := 0; h < l.halves(); h += halves {
		for t := 0; t < T; t += tokens {
			var cells []Cell
			for token := t; token < min(t+tokens, T); token++ {
				for group := range groups {
					for half := h; half < min(h+halves, l.halves()); half++ {
						cells = append(cells, Cell{group, half, token})
					}
				}
			}
			all = append(all, cells)
		}
	}
	return all
}

// kernel is the state of the kernel being generated.
type kernel struct {
	level
	T int // tokens of the tile

	w, tile, out, n, groups, ldo reg.GPVirtual // arguments; ldo in bytes
	wp, ap, count                reg.GPVirtual // of the pass
}

// open starts the function of a level and a tile width.
func open(l level, format string, T int) *kernel {
	TEXT(fmt.Sprintf("%sT%d", l.name, T), NOSPLIT|NOFRAME, "func(w, tile *byte, out *float32, n, groups, ldo int)")
	Doc(fmt.Sprintf("%sT%d multiplies groups of %s rows by a tile of %d tokens with %s (p16.Asm).", l.name, T, format, T, l.title))
	Pragma("noescape")
	k := &kernel{level: l, T: T, wp: GP64(), ap: GP64(), count: GP64()}
	load := func(name string) reg.GPVirtual { return Load(Param(name), GP64()).(reg.GPVirtual) }
	k.w, k.tile, k.out = load("w"), load("tile"), load("out")
	k.n, k.groups, k.ldo = load("n"), load("groups"), load("ldo")
	SHLQ(Imm(2), k.ldo)
	return k
}

// close ends the function.
func (k *kernel) close() {
	VZEROUPPER()
	RET()
}

// accumulators returns zeroes for the cells of each group that a pass walks.
func (k *kernel) accumulators(cells int, p *pair) [][]reg.VecVirtual {
	acc := make([][]reg.VecVirtual, p.groups())
	for g := range acc {
		acc[g] = k.vecs(cells)
		for _, v := range acc[g] {
			k.zero(v)
		}
	}
	return acc
}

// store writes the accumulators of a pass, [group of p][cell].
func (k *kernel) store(cells []Cell, acc [][]reg.VecVirtual, p *pair) {
	if p != nil {
		k.storePair(cells, acc, p)
		return
	}
	row := GP64()
	MOVQ(k.out, row)
	token := 0
	for i, c := range cells {
		for ; token < c.Token; token++ {
			ADDQ(k.ldo, row)
		}
		VMOVUPS(acc[0][i], Mem{Base: row, Disp: 4*quant.Lanes*c.Group + k.bytes*c.Half})
	}
}

// ahead is how far, in bytes, a single token's walk through the weights asks for
// them: about what one core receives in the time that memory takes to answer.
const ahead = 4096

// prefetch asks for the bytes that lie ahead of the bytes bytes at src. Past the
// end of the weights it does nothing: prefetches do not fault.
func prefetch(src Mem, bytes int) {
	for at := 0; at < bytes; at += 64 {
		PREFETCHT0(src.Offset(ahead + at))
	}
}

// down counts a register down and jumps while it is not zero.
func down(count reg.GPVirtual, label string) {
	DECQ(count)
	JNZ(LabelRef(label))
}
