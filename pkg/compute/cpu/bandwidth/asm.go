//go:build ignore

// Generates the loads of package bandwidth: eight registers a turn, joined by
// OR, which costs less than any load.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const registers = 8

func main() {
	load("avx2", "AVX2", 32, func() reg.VecVirtual { return YMM() },
		func(m Mem, v reg.VecVirtual) { VPOR(m, v, v) })
	load("avx512", "AVX-512", 64, func() reg.VecVirtual { return ZMM() },
		func(m Mem, v reg.VecVirtual) { VPORQ(m, v, v) })
	Generate()
}

// load generates the kernel that reads n bytes from p, a whole number of turns,
// and returns what keeps the loads alive.
func load(name, title string, bytes int, vec func() reg.VecVirtual, or func(Mem, reg.VecVirtual)) {
	TEXT(name, NOSPLIT|NOFRAME, "func(p *byte, n int) uint64")
	Doc(name + " reads n bytes from p, a multiple of 512, with " + title + " and returns the OR of some of them.")
	Pragma("noescape")
	p := Load(Param("p"), GP64())
	n := Load(Param("n"), GP64())
	v := make([]reg.VecVirtual, registers)
	for i := range v {
		v[i] = vec()
		VPXOR(v[i].AsX(), v[i].AsX(), v[i].AsX()) // clears the whole register
	}
	SHRQ(Imm(9), n)
	Label("turn")
	for i := range 512 / bytes {
		or(Mem{Base: p, Disp: i * bytes}, v[i%registers])
	}
	ADDQ(U32(512), p)
	DECQ(n)
	JNZ(LabelRef("turn"))
	for _, o := range v[1:] {
		VPOR(o.AsY(), v[0].AsY(), v[0].AsY())
	}
	out := GP64()
	VMOVQ(v[0].AsX(), out)
	VZEROUPPER()
	Store(out, ReturnIndex(0))
	RET()
}
