package p16gen

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Float describes a format that widens its weights to float32.
type Float struct {
	Name  string
	Value int // bytes of a packed value

	// Widen loads a vector of weights as float32.
	Widen func(src Mem, dst reg.VecVirtual)
}

// Generate writes the kernels of all levels and tile widths.
func (f Float) Generate() {
	for _, l := range []level{avx2, avx512} {
		for _, T := range quant.TileTokens {
			f.generate(l, T)
		}
	}
	f.generate(avx512, quant.WideTile)
	Generate()
}

// generate writes one kernel. A narrow tile takes several groups side by side:
// an accumulator waits for its own last sum, and eight or so of them are needed
// to hide that. The groups that are left go one by one.
func (f Float) generate(l level, T int) {
	k := open(l, f.Name, T)
	groupBytes := GP64()
	IMUL3Q(U32(uint32(f.Value*quant.Lanes)), k.n, groupBytes)
	wide := f.sideBySide(l, T)
	if wide > 1 {
		strides := f.strides(groupBytes, wide)
		Label("wide")
		CMPQ(k.groups, Imm(uint64(wide)))
		JLT(LabelRef("single"))
		f.passes(k, "wide", wide, strides)
		ADDQ(strides[wide-1], k.w)
		ADDQ(groupBytes, k.w)
		ADDQ(U32(uint32(4*quant.Lanes*wide)), k.out)
		SUBQ(Imm(uint64(wide)), k.groups)
		JMP(LabelRef("wide"))
		Label("single")
		TESTQ(k.groups, k.groups)
		JZ(LabelRef("done"))
	}
	Label("group")
	f.passes(k, "group", 1, nil)
	ADDQ(groupBytes, k.w)
	ADDQ(Imm(4*quant.Lanes), k.out)
	down(k.groups, "group")
	Label("done")
	k.close()
}

// sideBySide returns how many groups a tile takes at once.
func (f Float) sideBySide(l level, T int) int {
	switch {
	case T == 1 || T == 4 && l == avx512:
		return 4
	case l == avx512 && T < quant.WideTile:
		return 2
	}
	return 1
}

// strides returns the distances of the groups from the first one.
func (f Float) strides(groupBytes reg.GPVirtual, groups int) []reg.GPVirtual {
	all := []reg.GPVirtual{nil, groupBytes}
	for i := 2; i < groups; i++ {
		s := GP64()
		MOVQ(all[i-1], s)
		ADDQ(groupBytes, s)
		all = append(all, s)
	}
	return all
}

// passes walks groups groups once for each pass.
func (f Float) passes(k *kernel, label string, groups int, strides []reg.GPVirtual) {
	tokens := 4
	switch {
	case k.T == quant.WideTile:
		tokens = quant.WideTile
	case k.level == avx512:
		tokens = 12
	case k.T == 12:
		tokens = 6
	}
	for i, cells := range passes(k.level, k.T, tokens, 2, groups) {
		f.pass(k, fmt.Sprint(label, "pass", i), cells, strides)
	}
}

// pass walks the columns for some cells and stores their results.
func (f Float) pass(k *kernel, label string, cells []Cell, strides []reg.GPVirtual) {
	acc := k.vecs(len(cells))
	for _, v := range acc {
		k.zero(v)
	}
	MOVQ(k.w, k.wp)
	MOVQ(k.tile, k.ap)
	MOVQ(k.n, k.count)
	Label(label)
	weights := f.weights(k, cells, strides)
	f.multiply(k, cells, weights, acc)
	ADDQ(Imm(uint64(f.Value*quant.Lanes)), k.wp)
	ADDQ(Imm(uint64(4*k.T)), k.ap)
	down(k.count, label)
	k.store(cells, [][]reg.VecVirtual{acc}, nil)
}

// place is what cells that share weights have in common.
type place struct{ group, half int }

// weights loads one column.
func (f Float) weights(k *kernel, cells []Cell, strides []reg.GPVirtual) map[place]reg.VecVirtual {
	loaded := map[place]reg.VecVirtual{}
	for _, c := range cells {
		p := place{c.Group, c.Half}
		if loaded[p] != nil {
			continue
		}
		src := Mem{Base: k.wp, Disp: f.Value * k.bytes / 4 * c.Half}
		if c.Group > 0 {
			src.Index, src.Scale = strides[c.Group], 1
		}
		if k.T == 1 && c.Half == 0 {
			prefetch(src, f.Value*quant.Lanes)
		}
		loaded[p] = k.vec()
		f.Widen(src, loaded[p])
	}
	return loaded
}

// multiply adds one column: acc = fma(w, x, acc). The cells of a token follow
// each other.
func (f Float) multiply(k *kernel, cells []Cell, weights map[place]reg.VecVirtual, acc []reg.VecVirtual) {
	token, x := -1, k.vec()
	for i, c := range cells {
		if c.Token != token {
			token = c.Token
			VBROADCASTSS(Mem{Base: k.ap, Disp: 4 * token}, x)
		}
		VFMADD231PS(x, weights[place{c.Group, c.Half}], acc[i])
	}
}
