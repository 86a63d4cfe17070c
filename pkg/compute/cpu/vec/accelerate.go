package vec

import (
	"unsafe"

	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

//go:generate go run asm_neon.go asm_neon_rows.go asm_neon_tiles.go asm_neon_pages.go asm_neon_softmax.go -out kernels_arm64.s -stubs kernels_arm64.go -pkg vec

// The kernels find the fields of a Row at these offsets; the build fails if they
// move.
var (
	_ [80]struct{} = [unsafe.Sizeof(Row{})]struct{}{}
	_ [4]struct{}  = [unsafe.Offsetof(Row{}.Scale)]struct{}{}
	_ [8]struct{}  = [unsafe.Offsetof(Row{}.First)]struct{}{}
	_ [12]struct{} = [unsafe.Offsetof(Row{}.Last)]struct{}{}
	_ [16]struct{} = [unsafe.Offsetof(Row{}.Sum)]struct{}{}
)

// kernels are the vector kernels of one instruction set level. They check
// nothing: the functions below, which make operations of them, see to it that
// all memory a kernel touches belongs to the slices of the caller. Row kernels
// take whole blocks of 16 values.
type kernels struct {
	sumSq  func(x *float32, n int) float32
	norm   func(dst, x, gain *float32, blocks int, s float32)
	add    func(x, y *float32, blocks int)
	exp    func(dst, x *float32, blocks int)
	silu   func(dst, g, up *float32, blocks int)
	gelu   func(dst, g, up *float32, blocks int)
	finish func(dst, o, row *float32, n int)

	quantize func(tile *byte, x *float32, blocks, T, t int) // blocks of 32 values
	tile     func(dst *byte, x *float32, n, stride int)     // value i at byte i·stride

	rotateHalves func(x, cos, sin *float32, heads, dim, pairs int) // pair i is (i, i+pairs)
	rotatePairs  func(x, cos, sin *float32, heads, dim, pairs int) // pair i is (2i, 2i+1)

	score  []func(s, q, keys *float32, dim int)         // [rows−1]
	values []func(o, e, values, rows *float32, dim int) // [rows−1]

	// In their place, kernels that take the first n keys of a page.
	scoreFirst  []func(s, q, keys *float32, dim, n int)
	valuesFirst []func(o, e, values, rows *float32, dim, n int)

	softmax func(s, rows *float32, n int, scale, softCap float32)

	halves   func(dst *float32, src *byte, blocks int) // nil: the portable ones
	toHalves func(dst *byte, src *float32, blocks int)
	codes    [9]func(dst *float32, src, scales *byte, groups, blocks int) // of so many bits; blocks of a group
	columns  func(dst *float32, src *byte, scale, least *float32, rows int)
}

// accelerate replaces portable operations by the vector kernels of ops.Level.
func accelerate(ops *Ops) {
	k := kernelsOf(ops.Level)
	if k == nil {
		return
	}
	ops.SumSq = func(x []float32) float32 { return k.sumSq(unsafe.SliceData(x), len(x)) }
	ops.Norm = k.normRow
	ops.Add = k.addRow
	ops.Exp = k.expRow
	ops.SiLUMul = gated(k.silu, siluMul)
	ops.GELUMul = gated(k.gelu, geluMul)
	ops.Quantize = k.quantizeTile
	ops.Tile = k.packTile
	ops.Rotate = k.rotateRow
	ops.Score = k.scorePage
	ops.Softmax = k.softmaxPage
	ops.Values = k.valuesPage
	ops.Finish = k.finishRow
	if k.halves != nil {
		ops.Halves = k.halvesRow
		ops.ToHalves = k.toHalvesRow
		ops.Codes = k.codesRow
		ops.Columns = k.codeColumns
	}
}

// whole returns the blocks of 16 values in a row of n, and the values in them.
func whole(n int) (blocks, values int) { return n / lanes, n / lanes * lanes }

func (k *kernels) normRow(dst, x, gain []float32, s float32) {
	dst, gain = dst[:len(x)], gain[:len(x)]
	blocks, n := whole(len(x))
	k.norm(unsafe.SliceData(dst), unsafe.SliceData(x), unsafe.SliceData(gain), blocks, s)
	norm(dst[n:], x[n:], gain[n:], s)
}

func (k *kernels) addRow(x, y []float32) {
	y = y[:len(x)]
	blocks, n := whole(len(x))
	k.add(unsafe.SliceData(x), unsafe.SliceData(y), blocks)
	add(x[n:], y[n:])
}

func (k *kernels) expRow(dst, x []float32) {
	dst = dst[:len(x)]
	blocks, n := whole(len(x))
	k.exp(unsafe.SliceData(dst), unsafe.SliceData(x), blocks)
	exp(dst[n:], x[n:])
}

// gated returns the operation of an activation kernel; rest is the portable one.
func gated(kernel func(dst, g, up *float32, blocks int), rest func(dst, g, up []float32)) func(dst, g, up []float32) {
	return func(dst, g, up []float32) {
		dst, up = dst[:len(g)], up[:len(g)]
		blocks, n := whole(len(g))
		kernel(unsafe.SliceData(dst), unsafe.SliceData(g), unsafe.SliceData(up), blocks)
		rest(dst[n:], g[n:], up[n:])
	}
}

func (k *kernels) finishRow(dst, o []float32, row *Row) {
	if len(dst)%8 != 0 {
		finish(dst, o, row)
		return
	}
	k.finish(unsafe.SliceData(dst), unsafe.SliceData(o[:len(dst)]), &row.Max, len(dst))
}

func (k *kernels) halvesRow(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	blocks, n := whole(len(dst))
	if blocks > 0 {
		k.halves(unsafe.SliceData(dst), unsafe.SliceData(src), blocks)
	}
	halves(dst[n:], src[2*n:])
}

func (k *kernels) toHalvesRow(dst []byte, src []float32) {
	dst = dst[:2*len(src)]
	blocks, n := whole(len(src))
	if blocks > 0 {
		k.toHalves(unsafe.SliceData(dst), unsafe.SliceData(src), blocks)
	}
	toHalves(dst[2*n:], src[n:])
}

func (k *kernels) codesRow(dst []float32, src, scales []byte, bits, group int) {
	if group < CodeBlock || group%CodeBlock != 0 || len(dst)%group != 0 || len(dst) == 0 {
		codes(dst, src, scales, bits, group)
		return
	}
	groups := len(dst) / group
	src, scales = src[:len(dst)/8*bits], scales[:4*groups]
	k.codes[bits](unsafe.SliceData(dst), unsafe.SliceData(src), unsafe.SliceData(scales), groups, group/CodeBlock)
}

func (k *kernels) codeColumns(dst []float32, src []byte, scale, least *[Keys]float32) {
	if rows := len(dst) / Keys; rows > 0 {
		k.columns(unsafe.SliceData(dst), unsafe.SliceData(src[:rows*Keys]), &scale[0], &least[0], rows)
	}
}

func (k *kernels) quantizeTile(tile []byte, x []float32, T, t int) {
	blocks := len(x) / quant.Block
	if blocks == 0 || t < 0 || t >= T {
		p16.QuantizeTile(tile, x, T, t)
		return
	}
	n := blocks * quant.Block
	bytes := quant.ActInt8.ActBytes(T, n)
	k.quantize(unsafe.SliceData(tile[:bytes]), unsafe.SliceData(x), blocks, T, t)
	p16.QuantizeTile(tile[bytes:], x[n:], T, t)
}

func (k *kernels) packTile(tile []byte, x []float32, T, t int) {
	if len(x) == 0 {
		return
	}
	tile = tile[4*t : 4*((len(x)-1)*T+t)+4]
	k.tile(unsafe.SliceData(tile), unsafe.SliceData(x), len(x), 4*T)
}

func (k *kernels) rotateRow(x []float32, dim int, cos, sin []float32, neox bool) {
	pairs := len(cos)
	if pairs == 0 || pairs%8 != 0 || 2*pairs > dim {
		rotate(x, dim, cos, sin, neox)
		return
	}
	kernel := k.rotatePairs
	if neox {
		kernel = k.rotateHalves
	}
	if heads := len(x) / dim; heads > 0 {
		kernel(unsafe.SliceData(x), unsafe.SliceData(cos), unsafe.SliceData(sin[:pairs]), heads, dim, pairs)
	}
}

// together returns how many of rows rows the next kernel call takes when one
// takes up to most: all calls about as many.
func together(rows, most int) int {
	calls := (rows + most - 1) / most
	return (rows + calls - 1) / calls
}

func (k *kernels) scorePage(s, q, keys []float32, rows, dim, first int) {
	if dim <= 0 || first <= 0 || first > Keys {
		score(s, q, keys, rows, dim, first)
		return
	}
	s, q, keys = s[:rows*Keys], q[:rows*dim], keys[:dim*Keys]
	for rows > 0 {
		n := together(rows, max(len(k.score), len(k.scoreFirst)))
		if k.scoreFirst != nil {
			k.scoreFirst[n-1](unsafe.SliceData(s), unsafe.SliceData(q), unsafe.SliceData(keys), dim, first)
		} else {
			k.score[n-1](unsafe.SliceData(s), unsafe.SliceData(q), unsafe.SliceData(keys), dim)
		}
		s, q, rows = s[n*Keys:], q[n*dim:], rows-n
	}
}

func (k *kernels) softmaxPage(s []float32, rows []Row, scale, softCap float32) {
	if len(rows) > 0 {
		k.softmax(unsafe.SliceData(s[:len(rows)*Keys]), &rows[0].Max, len(rows), scale, softCap)
	}
}

func (k *kernels) valuesPage(o, e, v []float32, rows []Row, dim, first int) {
	if dim <= 0 || dim%8 != 0 || first <= 0 || first > Keys {
		values(o, e, v, rows, dim, first)
		return
	}
	o, e, v = o[:len(rows)*dim], e[:len(rows)*Keys], v[:Keys*dim]
	for len(rows) > 0 {
		n := together(len(rows), max(len(k.values), len(k.valuesFirst)))
		if k.valuesFirst != nil {
			k.valuesFirst[n-1](unsafe.SliceData(o), unsafe.SliceData(e), unsafe.SliceData(v), &rows[0].Max, dim, first)
		} else {
			k.values[n-1](unsafe.SliceData(o), unsafe.SliceData(e), unsafe.SliceData(v), &rows[0].Max, dim)
		}
		o, e, rows = o[n*dim:], e[n*Keys:], rows[n:]
	}
}
