package neongen

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Words of the GNU assembler (binutils 2.40, -march=armv8.2-a+dotprod).
var words = []struct {
	write func(a *Asm)
	text  string
	code  uint32
}{
	{func(a *Asm) { a.FMLA(1, 2, 3) }, "fmla v1.4s, v2.4s, v3.4s", 0x4e23cc41},
	{func(a *Asm) { a.FMLAElement(1, 2, 3, 0) }, "fmla v1.4s, v2.4s, v3.s[0]", 0x4f831041},
	{func(a *Asm) { a.FMLAElement(1, 2, 31, 3) }, "fmla v1.4s, v2.4s, v31.s[3]", 0x4fbf1841},
	{func(a *Asm) { a.FMLS(1, 2, 3) }, "fmls v1.4s, v2.4s, v3.4s", 0x4ea3cc41},
	{func(a *Asm) { a.UXTL(1, 2) }, "uxtl v1.8h, v2.8b", 0x2f08a441},
	{func(a *Asm) { a.SXTLHalfs(1, 2) }, "sxtl v1.4s, v2.4h", 0x0f10a441},
	{func(a *Asm) { a.UXTLHalfs(1, 2) }, "uxtl v1.4s, v2.4h", 0x2f10a441},
	{func(a *Asm) { a.TBL(1, 2, 3) }, "tbl v1.16b, {v2.16b}, v3.16b", 0x4e030041},
	{func(a *Asm) { a.MULElement(1, 2, 3, 1) }, "mul v1.4s, v2.4s, v3.s[1]", 0x4fa38041},
	{func(a *Asm) { a.MLAElement(1, 2, 31, 3) }, "mla v1.4s, v2.4s, v31.s[3]", 0x6fbf0841},
	{func(a *Asm) { a.FMUL(1, 2, 3) }, "fmul v1.4s, v2.4s, v3.4s", 0x6e23dc41},
	{func(a *Asm) { a.FMULElement(1, 2, 3, 1) }, "fmul v1.4s, v2.4s, v3.s[1]", 0x4fa39041},
	{func(a *Asm) { a.FADD(1, 2, 3) }, "fadd v1.4s, v2.4s, v3.4s", 0x4e23d441},
	{func(a *Asm) { a.FSUB(1, 2, 3) }, "fsub v1.4s, v2.4s, v3.4s", 0x4ea3d441},
	{func(a *Asm) { a.FDIV(1, 2, 3) }, "fdiv v1.4s, v2.4s, v3.4s", 0x6e23fc41},
	{func(a *Asm) { a.FMAX(1, 2, 3) }, "fmax v1.4s, v2.4s, v3.4s", 0x4e23f441},
	{func(a *Asm) { a.FMIN(1, 2, 3) }, "fmin v1.4s, v2.4s, v3.4s", 0x4ea3f441},
	{func(a *Asm) { a.FMAXV(1, 2) }, "fmaxv s1, v2.4s", 0x6e30f841},
	{func(a *Asm) { a.FNEG(1, 2) }, "fneg v1.4s, v2.4s", 0x6ea0f841},
	{func(a *Asm) { a.FCMGT(1, 2, 3) }, "fcmgt v1.4s, v2.4s, v3.4s", 0x6ea3e441},
	{func(a *Asm) { a.FCVTL(1, 2) }, "fcvtl v1.4s, v2.4h", 0x0e217841},
	{func(a *Asm) { a.FCVTL2(1, 2) }, "fcvtl2 v1.4s, v2.8h", 0x4e217841},
	{func(a *Asm) { a.SCVTF(1, 2) }, "scvtf v1.4s, v2.4s", 0x4e21d841},
	{func(a *Asm) { a.FCVTNS(1, 2) }, "fcvtns v1.4s, v2.4s", 0x4e21a841},
	{func(a *Asm) { a.SHLL(1, 2) }, "shll v1.4s, v2.4h, #16", 0x2e613841},
	{func(a *Asm) { a.SHLL2(1, 2) }, "shll2 v1.4s, v2.8h, #16", 0x6e613841},
	{func(a *Asm) { a.SXTL(1, 2) }, "sxtl v1.8h, v2.8b", 0x0f08a441},
	{func(a *Asm) { a.SDOT(1, 2, 3, 0) }, "sdot v1.4s, v2.16b, v3.4b[0]", 0x4f83e041},
	{func(a *Asm) { a.SDOT(1, 2, 31, 3) }, "sdot v1.4s, v2.16b, v31.4b[3]", 0x4fbfe841},
	{func(a *Asm) { a.SADDLV(1, 2) }, "saddlv h1, v2.16b", 0x4e303841},
	{func(a *Asm) { a.AND(1, 2, 3) }, "and v1.16b, v2.16b, v3.16b", 0x4e231c41},
	{func(a *Asm) { a.BIC(1, 2, 3) }, "bic v1.16b, v2.16b, v3.16b", 0x4e631c41},
	{func(a *Asm) { a.ORR(1, 2, 3) }, "orr v1.16b, v2.16b, v3.16b", 0x4ea31c41},
	{func(a *Asm) { a.EOR(1, 2, 3) }, "eor v1.16b, v2.16b, v3.16b", 0x6e231c41},
	{func(a *Asm) { a.BIT(1, 2, 3) }, "bit v1.16b, v2.16b, v3.16b", 0x6ea31c41},
	{func(a *Asm) { a.BIF(1, 2, 3) }, "bif v1.16b, v2.16b, v3.16b", 0x6ee31c41},
	{func(a *Asm) { a.Zero(1) }, "movi v1.2d, #0", 0x6f00e401},
	{func(a *Asm) { a.MOVIBytes(1, 0x80) }, "movi v1.16b, #0x80", 0x4f04e401},
	{func(a *Asm) { a.MOVIBytes(1, 0x0f) }, "movi v1.16b, #0xf", 0x4f00e5e1},
	{func(a *Asm) { a.USHRBytes(1, 2, 4) }, "ushr v1.16b, v2.16b, #4", 0x6f0c0441},
	{func(a *Asm) { a.SHLBytes(1, 2, 2) }, "shl v1.16b, v2.16b, #2", 0x4f0a5441},
	{func(a *Asm) { a.SHL(1, 2, 23) }, "shl v1.4s, v2.4s, #23", 0x4f375441},
	{func(a *Asm) { a.SSHR(1, 2, 16) }, "sshr v1.4s, v2.4s, #16", 0x4f300441},
	{func(a *Asm) { a.ADD(1, 2, 3) }, "add v1.4s, v2.4s, v3.4s", 0x4ea38441},
	{func(a *Asm) { a.SUBBytes(1, 2, 3) }, "sub v1.16b, v2.16b, v3.16b", 0x6e238441},
	{func(a *Asm) { a.MUL(1, 2, 3) }, "mul v1.4s, v2.4s, v3.4s", 0x4ea39c41},
	{func(a *Asm) { a.MLA(1, 2, 3) }, "mla v1.4s, v2.4s, v3.4s", 0x4ea39441},
	{func(a *Asm) { a.UMAX(1, 2, 3) }, "umax v1.4s, v2.4s, v3.4s", 0x6ea36441},
	{func(a *Asm) { a.UMAXV(1, 2) }, "umaxv s1, v2.4s", 0x6eb0a841},
	{func(a *Asm) { a.CMGE(1, 2, 3) }, "cmge v1.4s, v2.4s, v3.4s", 0x4ea33c41},
	{func(a *Asm) { a.EXT(1, 2, 3, 8) }, "ext v1.16b, v2.16b, v3.16b, #8", 0x6e034041},
	{func(a *Asm) { a.DUP(1, 2, 3) }, "dup v1.4s, v2.s[3]", 0x4e1c0441},
	{func(a *Asm) { a.DUPGeneral(1, 2) }, "dup v1.4s, w2", 0x4e040c41},
	{func(a *Asm) { a.INS(1, 2, 2) }, "mov v1.s[2], w2", 0x4e141c41},
	{func(a *Asm) { a.SMOV(1, 2) }, "smov w1, v2.h[0]", 0x0e022c41},
	{func(a *Asm) { a.LD2(1, 3) }, "ld2 {v1.4s, v2.4s}, [x3]", 0x4c408861},
	{func(a *Asm) { a.ST2(1, 3) }, "st2 {v1.4s, v2.4s}, [x3]", 0x4c008861},
	{func(a *Asm) { a.ST1(1, 0, 2, 3) }, "st1 {v1.s}[0], [x2], x3", 0x0d838041},
	{func(a *Asm) { a.ST1(1, 3, 2, 3) }, "st1 {v1.s}[3], [x2], x3", 0x4d839041},
	{func(a *Asm) { a.FMULScalar(1, 2, 3) }, "fmul s1, s2, s3", 0x1e230841},
	{func(a *Asm) { a.FDIVScalar(1, 2, 3) }, "fdiv s1, s2, s3", 0x1e231841},
	{func(a *Asm) { a.FSUBScalar(1, 2, 3) }, "fsub s1, s2, s3", 0x1e233841},
	{func(a *Asm) { a.SCVTFGeneral(1, 2) }, "scvtf s1, w2", 0x1e220041},
	{func(a *Asm) { a.FMOVGeneral(1, 2) }, "fmov w1, s2", 0x1e260041},
}

func TestWords(t *testing.T) {
	for _, w := range words {
		a := &Asm{}
		w.write(a)
		if got, want := strings.TrimSpace(a.text.String()), fmt.Sprintf("WORD $%#08x // %s", w.code, w.text); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestNarrowWords(t *testing.T) {
	a := &Asm{}
	a.NarrowWords(9, [4]V{1, 2, 3, 4})
	for _, want := range []string{
		"$0x0e614821 // sqxtn v1.4h, v1.4s", "$0x4e614841 // sqxtn2 v1.8h, v2.4s", "$0x0e614863 // sqxtn v3.4h, v3.4s",
		"$0x4e614883 // sqxtn2 v3.8h, v4.4s", "$0x0e214829 // sqxtn v9.8b, v1.8h", "$0x4e214869 // sqxtn2 v9.16b, v3.8h",
	} {
		if !strings.Contains(a.text.String(), want) {
			t.Errorf("no %s in\n%s", want, a.text.String())
		}
	}
}

// Arguments lie one after the other, aligned to their size; the result begins at
// a multiple of 8.
func TestLayOut(t *testing.T) {
	a := &Asm{}
	a.Func("f", "func(x *float32, s, c float32, n int, last float32) (ret float32)", "does", 0)
	want := map[string]int{"x": 0, "s": 8, "c": 12, "n": 16, "last": 24, "ret": 32}
	for name, at := range want {
		if a.offsets[name] != at {
			t.Errorf("%s is at %d, want %d", name, a.offsets[name], at)
		}
	}
	if !strings.Contains(a.text.String(), "TEXT ·f(SB), NOSPLIT, $0-36") {
		t.Errorf("the function is %s", a.text.String())
	}
}

// A function that needs too many registers is a mistake that must not become
// code, and what a scope took is free again.
func TestRegistersRunOut(t *testing.T) {
	a := &Asm{}
	a.Func("f", "func(n int)", "does", 0)
	a.Scope(func() { a.Vecs(vectors) })
	if got := a.Vecs(vectors); got[0] != 0 || got[vectors-1] != vectors-1 {
		t.Errorf("registers %v", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("a register more than there are")
		}
	}()
	a.Vec()
}

// Every token, quarter and group is a cell of exactly one pass, and a pass lists
// its tokens in ascending order, as store needs them.
func TestPassesCoverEveryCellOnce(t *testing.T) {
	for _, T := range quant.TileTokens {
		for _, s := range []shape{{1, 4, 1}, {1, 4, 4}, {4, 1, 1}, {4, 2, 1}, {4, 4, 1}, {6, 4, 1}} {
			seen := map[Cell]int{}
			for _, cells := range s.passes(T) {
				for i, c := range cells {
					seen[c]++
					if i > 0 && c.Token < cells[i-1].Token {
						t.Fatalf("%v after %v", c, cells[i-1])
					}
				}
			}
			if want := T * quarters * s.groups; len(seen) != want {
				t.Fatalf("%d tokens by %v: %d cells, want %d", T, s, len(seen), want)
			}
			for c, n := range seen {
				if n != 1 {
					t.Fatalf("%d tokens by %v: %+v in %d passes", T, s, c, n)
				}
			}
		}
	}
}
