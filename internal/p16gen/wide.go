package p16gen

import (
	"encoding/binary"
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// wide describes the AMX kernel of a format, which multiplies tiles of
// quant.WideTile tokens, any number of them one after the other.
//
// A tile register holds the sums of a block for 16 tokens (rows) and 16 lanes.
// The kernel walks the columns in chunks, short ones for a single tile, so that
// what it works on stays in the first-level cache. For each group it unpacks a
// chunk to signed bytes and float32 scales and multiplies them by every tile. Blocks go in pairs, or in halves: while the tile
// unit multiplies one pair, the vector units scale the sums of the pair before.
// Between chunks the accumulators wait in the output.
type wide struct {
	name   string
	step   int  // packed bytes of a step of n
	blocks int  // blocks of a step: 1 or an even divisor of shortChunk
	min    bool // blocks have a minimum
	halves bool // the halves of a block have integer scales

	// unpack loads constants and returns the code that unpacks a step from src to
	// its blocks at dst.
	unpack func() func(src, dst reg.GPVirtual)
}

// The working memory in the frame: the sums of two pairs and the unpacked blocks
// of a chunk. A block is 8 vectors of signed bytes (vector v holds columns
// 4v..4v+3), then float32: 16 scales, and 16 minimums or 16 scales of each half.
const (
	shortChunk    = 8 // blocks
	longChunk     = 32
	sumBytes      = 4 * quant.Lanes * quant.WideTile
	unpackedScale = quant.Block * quant.Lanes
	unpackedMin   = unpackedScale + 4*quant.Lanes
	unpackedHalf  = unpackedMin // of the first half
	wideActBytes  = 48 * quant.WideTile
)

// unpackedBytes returns the bytes of an unpacked block.
func (f *wide) unpackedBytes() int {
	switch {
	case f.halves:
		return unpackedHalf + 2*4*quant.Lanes
	case f.min:
		return unpackedMin + 4*quant.Lanes
	}
	return unpackedScale + 4*quant.Lanes
}

// Tile registers, for each block or half of a pair.
var sums, acts, weights = [2]tmm{0, 1}, [2]tmm{2, 3}, [2]tmm{4, 5}

// wideKernel is the state of the kernel being generated.
type wideKernel struct {
	*wide
	act, weight, sum, step reg.GPPhysical // addresses of a pair for the tile unit; half the bytes of a row
	before                 reg.GPVirtual  // sums of the pair before
	work                   reg.GPVirtual
	acc                    []reg.VecVirtual // [token]

	// Counters and addresses of the chunk, in the frame.
	w, tile, out, left, steps, groups, tiles, groupBytes, tileBytes Mem
}

// generate writes the kernel.
func (f *wide) generate() {
	TEXT("amxT16", 0, "func(w, tile *byte, out *float32, n, groups, ldo, tiles int)")
	Doc(fmt.Sprintf("amxT16 multiplies groups of %s rows by tiles of %d tokens with AMX (p16.Wide).", f.name, quant.WideTile))
	Pragma("noescape")
	k := &wideKernel{wide: f, act: reg.R8, weight: reg.R9, sum: reg.R10, step: reg.R11, before: GP64(), work: GP64()}
	k.open()
	unpack := f.unpack()
	Label("chunk")
	w, out := GP64(), GP64()
	k.beginChunk(w, out)
	Label("group")
	k.unpackChunk(w, unpack)
	k.multiply(out)
	ADDQ(k.groupBytes, w)
	ADDQ(Imm(4*quant.Lanes), out)
	DECQ(k.groups)
	JNZ(LabelRef("group"))
	k.endChunk()
	JNZ(LabelRef("chunk"))
	tileRelease()
	VZEROUPPER()
	RET()
}

// argument copies an argument to the frame.
func argument(name string, to Mem) {
	t := GP64()
	Load(Param(name), t)
	MOVQ(t, to)
}

// open sets up the frame and shapes the tile registers.
func (k *wideKernel) open() {
	for _, slot := range []*Mem{&k.w, &k.tile, &k.out, &k.left, &k.steps, &k.groups, &k.tiles, &k.groupBytes, &k.tileBytes} {
		*slot = AllocLocal(8)
	}
	LEAQ(AllocLocal(4*sumBytes+longChunk*k.unpackedBytes()+64), k.work)
	ADDQ(Imm(63), k.work)
	ANDQ(I8(-64), k.work)
	argument("w", k.w)
	argument("tile", k.tile)
	argument("out", k.out)
	argument("n", k.left)
	n, t := GP64(), GP64()
	MOVQ(k.left, n)
	IMUL3Q(U32(uint32(k.wide.step)), n, t)
	MOVQ(t, k.groupBytes)
	IMUL3Q(U32(uint32(k.blocks*wideActBytes)), n, t)
	MOVQ(t, k.tileBytes)
	LEAQ(k.shapes(), k.sum)
	tileConfigure(k.sum)
	MOVQ(U32(quant.Block), k.step)
	for range quant.WideTile {
		k.acc = append(k.acc, ZMM())
	}
}

// shapes writes the shapes of the tile registers to read-only memory.
func (f *wide) shapes() Mem {
	depth := byte(quant.Block) // columns that a tile register sums up
	if f.halves {
		depth /= 2
	}
	config := [64]byte{0: 1} // the palette: 8 registers of up to 16 rows of 64 bytes
	for i := range 2 {
		for _, s := range []struct {
			t           tmm
			rows, bytes byte
		}{{sums[i], quant.WideTile, 4 * quant.Lanes}, {acts[i], quant.WideTile, depth}, {weights[i], depth / 4, 4 * quant.Lanes}} {
			config[16+2*s.t], config[48+s.t] = s.bytes, s.rows
		}
	}
	at := GLOBL("shapes", RODATA|NOPTR)
	for i := 0; i < len(config); i += 8 {
		DATA(i, U64(binary.LittleEndian.Uint64(config[i:])))
	}
	return at
}

// beginChunk takes the next steps, up to a chunk, and sets w and out to the first
// group.
func (k *wideKernel) beginChunk(w, out reg.GPVirtual) {
	steps, most := GP64(), GP64()
	short := GP64()
	MOVQ(U32(uint32(longChunk/k.blocks)), most)
	MOVQ(U32(uint32(shortChunk/k.blocks)), short)
	Load(Param("tiles"), steps)
	CMPQ(steps, Imm(1))
	CMOVQEQ(short, most)
	MOVQ(k.left, steps)
	CMPQ(steps, most)
	CMOVQGT(most, steps)
	MOVQ(steps, k.steps)
	MOVQ(k.w, w)
	MOVQ(k.out, out)
	argument("groups", k.groups)
}

// endChunk moves on to the next chunk, and leaves the zero flag set if there is
// none.
func (k *wideKernel) endChunk() {
	steps, t := GP64(), GP64()
	MOVQ(k.steps, steps)
	IMUL3Q(U32(uint32(k.wide.step)), steps, t)
	ADDQ(t, k.w)
	IMUL3Q(U32(uint32(k.blocks*wideActBytes)), steps, t)
	ADDQ(t, k.tile)
	SUBQ(steps, k.left)
}

// unpackChunk unpacks the chunk of the group at w, and asks for that of the next
// group.
func (k *wideKernel) unpackChunk(w reg.GPVirtual, unpack func(src, dst reg.GPVirtual)) {
	src, dst, n, far := GP64(), GP64(), GP64(), GP64()
	MOVQ(w, src)
	MOVQ(k.groupBytes, far)
	LEAQ(Mem{Base: k.work, Disp: 4 * sumBytes}, dst)
	MOVQ(k.steps, n)
	Label("unpack")
	for at := 0; at < k.wide.step; at += 64 {
		PREFETCHT1(Mem{Base: src, Index: far, Scale: 1, Disp: at})
	}
	unpack(src, dst)
	ADDQ(U32(uint32(k.wide.step)), src)
	ADDQ(U32(uint32(k.blocks*k.unpackedBytes())), dst)
	down(n, "unpack")
}

// multiply multiplies the chunk by all tiles.
func (k *wideKernel) multiply(out reg.GPVirtual) {
	tile, to, ldo, pairs := GP64(), GP64(), GP64(), GP64()
	n := 2 // blocks of a pair
	if k.halves {
		n = 1
	}
	MOVQ(k.tile, tile)
	MOVQ(out, to)
	Load(Param("ldo"), ldo)
	SHLQ(Imm(2), ldo)
	argument("tiles", k.tiles)
	Label("tile")
	k.begin(to, ldo)
	MOVQ(tile, k.act)
	LEAQ(Mem{Base: k.work, Disp: 4 * sumBytes}, k.weight)
	MOVQ(k.work, k.sum)
	LEAQ(Mem{Base: k.work, Disp: 2 * sumBytes}, k.before)
	MOVQ(k.steps, pairs)
	if k.blocks == 1 {
		SHRQ(Imm(1), pairs)
		JZ(LabelRef("odd"))
	} else {
		IMUL3Q(Imm(uint64(k.blocks/n)), pairs, pairs)
	}
	k.dot(n)
	JMP(LabelRef("begun"))
	Label("pair")
	k.dot(n)
	k.scale(n)
	Label("begun")
	k.next(n)
	down(pairs, "pair")
	k.scale(n)
	if k.blocks == 1 {
		TESTQ(U32(1), k.steps)
		JZ(LabelRef("even"))
		Label("odd")
		k.dot(1)
		k.next(1)
		k.scale(1)
		Label("even")
	}
	k.end(to, ldo)
	ADDQ(k.tileBytes, tile)
	SHLQ(Imm(4), ldo) // quant.WideTile rows
	ADDQ(ldo, to)
	SHRQ(Imm(4), ldo)
	DECQ(k.tiles)
	JNZ(LabelRef("tile"))
}

// dot starts the integer sums of the next n blocks or of the halves of one.
func (k *wideKernel) dot(n int) {
	weightBytes, actBytes := k.unpackedBytes(), wideActBytes
	if k.halves {
		n, weightBytes, actBytes = 2, unpackedScale/2, quant.Block/2
	}
	for i := range n {
		tileLoad(weights[i], rows{k.weight, k.step, 2, int32(i * weightBytes)})
		tileLoad(acts[i], rows{k.act, k.step, 1, int32(i * actBytes)})
		tileZero(sums[i])
		tileDot(sums[i], acts[i], weights[i])
	}
	for i := range n {
		tileStore(sums[i], rows{k.sum, k.step, 2, int32(i) * sumBytes})
	}
}

// next moves on by n blocks.
func (k *wideKernel) next(n int) {
	ADDQ(U32(uint32(n*wideActBytes)), k.act)
	ADDQ(U32(uint32(n*k.unpackedBytes())), k.weight)
	XCHGQ(k.sum, k.before)
}

// scale adds the sums of the n blocks before to the accumulators:
// acc = fma(isum, dw·da, acc) and, with a minimum, acc = fma(mw, ds, acc).
func (k *wideKernel) scale(n int) {
	if k.halves {
		k.scaleHalves()
		return
	}
	for i := range n {
		act := Mem{Base: k.act, Disp: (i - n) * wideActBytes}
		weight := Mem{Base: k.weight, Disp: (i - n) * k.unpackedBytes()}
		dw, mw := ZMM(), ZMM()
		VMOVAPS(weight.Offset(unpackedScale), dw)
		if k.min {
			VMOVAPS(weight.Offset(unpackedMin), mw)
		}
		for t, acc := range k.acc {
			sum, d := ZMM(), ZMM()
			VCVTDQ2PS(Mem{Base: k.before, Disp: i*sumBytes + 4*quant.Lanes*t}, sum)
			VMULPS_BCST(act.Offset(32*quant.WideTile+4*t), dw, d)
			VFMADD231PS(sum, d, acc)
			if k.min {
				VFMADD231PS_BCST(act.Offset(36*quant.WideTile+4*t), mw, acc)
			}
		}
	}
}

// scaleHalves adds the sums of the block before: isum = s0·sum0 + s1·sum1, which
// is exact in float32, below 2²⁴.
func (k *wideKernel) scaleHalves() {
	weight := Mem{Base: k.weight, Disp: -k.unpackedBytes()}
	scale := [3]reg.VecVirtual{ZMM(), ZMM(), ZMM()}
	for i, s := range scale {
		VMOVAPS(weight.Offset(unpackedScale+4*quant.Lanes*i), s)
	}
	for t, acc := range k.acc {
		x, y := ZMM(), ZMM()
		sum := Mem{Base: k.before, Disp: 4 * quant.Lanes * t}
		VCVTDQ2PS(sum, x)
		VMULPS(scale[1], x, x)
		VCVTDQ2PS(sum.Offset(sumBytes), y)
		VFMADD231PS(scale[2], y, x)
		VMULPS_BCST(Mem{Base: k.act, Disp: 32*quant.WideTile + 4*t - wideActBytes}, scale[0], y)
		VFMADD231PS(x, y, acc)
	}
}

// begin loads the accumulators of a tile, which are zero in the first chunk.
func (k *wideKernel) begin(to, ldo reg.GPVirtual) {
	for _, acc := range k.acc {
		Zero512(acc)
	}
	first, row := GP64(), GP64()
	Load(Param("w"), first)
	CMPQ(first, k.w)
	JEQ(LabelRef("zero"))
	MOVQ(to, row)
	for _, acc := range k.acc {
		VMOVUPS(Mem{Base: row}, acc)
		ADDQ(ldo, row)
	}
	Label("zero")
}

// end stores the accumulators of a tile.
func (k *wideKernel) end(to, ldo reg.GPVirtual) {
	row := GP64()
	MOVQ(to, row)
	for _, acc := range k.acc {
		VMOVUPS(acc, Mem{Base: row})
		ADDQ(ldo, row)
	}
}
