//go:build ignore

// Generates the vector kernels of package vec. The 16 virtual lanes of its
// specification are one register of AVX-512 or two of AVX2; the code of an
// operation is written once over either.
package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/shoal-llm/shoal/internal/p16gen"
)

const (
	lanes     = 16 // virtual lanes, and values of a block
	keys      = 64 // keys of a page
	keysBytes = 4 * keys
)

// level is an instruction set to generate for.
type level struct {
	name  string
	title string
	bytes int // of a register
}

var (
	avx2   = level{"avx2", "AVX2", 32}
	avx512 = level{"avx512", "AVX-512", 64}
)

func main() {
	table = GLOBL("numbers", RODATA|NOPTR)
	layTables()
	for _, l := range []level{avx2, avx512} {
		l.rows()
		l.pages()
		l.softmax()
		l.codes()
	}
	tiles()
	Generate()
}

// width returns the values of a register.
func (l level) width() int { return l.bytes / 4 }

// parts returns the registers of 16 lanes.
func (l level) parts() int { return lanes / l.width() }

func (l level) vec() reg.VecVirtual {
	if l == avx512 {
		return ZMM()
	}
	return YMM()
}

func (l level) vecs(n int) []reg.VecVirtual {
	v := make([]reg.VecVirtual, n)
	for i := range v {
		v[i] = l.vec()
	}
	return v
}

func (l level) zero(v reg.VecVirtual) {
	if l == avx512 {
		p16gen.Zero512(v)
	} else {
		VPXOR(v, v, v)
	}
}

// open starts the kernel called name of the level.
func (l level) open(name, signature, doc string) {
	TEXT(l.name+name, NOSPLIT|NOFRAME, signature)
	Doc(l.name + name + " " + doc + " with " + l.title + ".")
	Pragma("noescape")
}

// done ends the kernel.
func done() {
	VZEROUPPER()
	RET()
}

// argument loads a pointer or an integer.
func argument(name string) reg.GPVirtual { return Load(Param(name), GP64()).(reg.GPVirtual) }

// spread returns a register with the float32 argument in each lane.
func (l level) spread(name string) reg.VecVirtual {
	b, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	v := l.vec()
	VBROADCASTSS(b.Addr, v)
	return v
}

// down counts a register down and jumps while it is not zero.
func down(count reg.GPVirtual, label string) {
	DECQ(count)
	JNZ(LabelRef(label))
}

// at addresses a byte offset from a register.
func at(base reg.Register, offset int) Mem { return Mem{Base: base, Disp: offset} }

// joinHalves leaves in lane 0 what op makes of all 16 lanes, joined by halves.
func (l level) joinHalves(v []reg.VecVirtual, op func(...Op)) reg.VecVirtual {
	low, high := v[0].AsY(), YMM()
	if l == avx512 {
		VEXTRACTF64X4(Imm(1), v[0], high)
	} else {
		high = v[1]
	}
	sum, x, t := YMM(), XMM(), XMM()
	op(high, low, sum)
	if l == avx512 {
		VEXTRACTF32X4(Imm(1), sum, t)
	} else {
		VEXTRACTF128(Imm(1), sum, t)
	}
	op(t, sum.AsX(), x)
	VPERMILPS(Imm(0b01_00_11_10), x, t)
	op(t, x, x)
	VMOVSHDUP(x, t)
	op(t, x, x)
	return x
}

// The constant data of the kernels, in bytes from the start of the table.
const (
	indexTable = 0                     // int32 0 to 63
	tailTable  = indexTable + 4*keys   // 16 × −1, 16 × 0
	orderTable = tailTable + 4*2*lanes // int32 0 4 1 5 2 6 3 7
	firstFree  = orderTable + 32       // numbers, 32 bytes each
	spacing    = 32
)

var (
	table   Mem
	numbers = map[uint32]int{} // bits to offset
)

func layTables() {
	for i := range keys {
		DATA(indexTable+4*i, U32(uint32(i)))
	}
	for i := range 2 * lanes {
		DATA(tailTable+4*i, U32(uint32(int32(i/lanes-1))))
	}
	for i := range 8 {
		DATA(orderTable+4*i, U32(uint32(i/2+i%2*4)))
	}
}

// number returns a place in memory that holds the bits eight times.
func number(bits uint32) Mem {
	offset, ok := numbers[bits]
	if !ok {
		offset = firstFree + spacing*len(numbers)
		numbers[bits] = offset
		for i := range spacing / 4 {
			DATA(offset+4*i, U32(bits))
		}
	}
	return table.Offset(offset)
}

// constant returns an operand with x in each lane: AVX-512 has the registers
// to keep it, AVX2 reads it from memory.
func (l level) constant(x float32) Op { return l.bits(math.Float32bits(x)) }

func (l level) bits(x uint32) Op {
	if l == avx512 {
		v := l.vec()
		VBROADCASTSS(number(x), v)
		return v
	}
	return number(x)
}

// register returns the operand in a register.
func (l level) register(x Op) reg.VecVirtual {
	if v, ok := x.(reg.VecVirtual); ok {
		return v
	}
	v := l.vec()
	VMOVUPS(x, v)
	return v
}
