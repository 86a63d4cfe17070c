package neongen

import "fmt"

// The methods below are one instruction each, in the operand order of the
// architecture's manual (Arm Architecture Reference Manual for A-profile,
// "A64 Advanced SIMD and Floating-point Instructions"): the destination first.
// Without a word on the arrangement they work on four 32-bit lanes.

// word writes an instruction by its code; the text is for readers.
func (a *Asm) word(code uint32, text string, args ...any) {
	fmt.Fprintf(&a.text, "\tWORD $%#08x // "+text+"\n", append([]any{code}, args...)...)
}

func (a *Asm) three(code uint32, name, lanes string, d, n, m V) {
	a.word(code|uint32(m)<<16|uint32(n)<<5|uint32(d), "%s v%d.%s, v%d.%s, v%d.%s", name, d, lanes, n, lanes, m, lanes)
}

func (a *Asm) two(code uint32, name, lanes string, d V, from string, n V) {
	a.word(code|uint32(n)<<5|uint32(d), "%s v%d.%s, v%d.%s", name, d, lanes, n, from)
}

// element is an instruction whose last operand is lane i of a register.
func (a *Asm) element(code uint32, name, from, of string, d, n, m V, i int) {
	code |= uint32(i&1)<<21 | uint32(i>>1)<<11
	a.word(code|uint32(m)<<16|uint32(n)<<5|uint32(d), "%s v%d.4s, v%d.%s, v%d.%s[%d]", name, d, n, from, m, of, i)
}

func (a *Asm) shift(code uint32, name, lanes string, d, n V, immediate, shift int) {
	a.word(code|uint32(immediate)<<16|uint32(n)<<5|uint32(d), "%s v%d.%s, v%d.%s, #%d", name, d, lanes, n, lanes, shift)
}

// FMLA is d = fma(n, m, d).
func (a *Asm) FMLA(d, n, m V) { a.three(0x4e20cc00, "fmla", "4s", d, n, m) }

// FMLAElement is d = fma(n, m[i], d).
func (a *Asm) FMLAElement(d, n, m V, i int) { a.element(0x4f801000, "fmla", "4s", "s", d, n, m, i) }

// FMLS is d = fma(−n, m, d).
func (a *Asm) FMLS(d, n, m V) { a.three(0x4ea0cc00, "fmls", "4s", d, n, m) }

// FMUL is d = n·m.
func (a *Asm) FMUL(d, n, m V) { a.three(0x6e20dc00, "fmul", "4s", d, n, m) }

// FMULElement is d = n·m[i].
func (a *Asm) FMULElement(d, n, m V, i int) { a.element(0x4f809000, "fmul", "4s", "s", d, n, m, i) }

// FADD is d = n + m.
func (a *Asm) FADD(d, n, m V) { a.three(0x4e20d400, "fadd", "4s", d, n, m) }

// FSUB is d = n − m.
func (a *Asm) FSUB(d, n, m V) { a.three(0x4ea0d400, "fsub", "4s", d, n, m) }

// FDIV is d = n / m.
func (a *Asm) FDIV(d, n, m V) { a.three(0x6e20fc00, "fdiv", "4s", d, n, m) }

// FMAX is the larger one, a NaN if there is one.
func (a *Asm) FMAX(d, n, m V) { a.three(0x4e20f400, "fmax", "4s", d, n, m) }

// FMIN is the smaller one, a NaN if there is one.
func (a *Asm) FMIN(d, n, m V) { a.three(0x4ea0f400, "fmin", "4s", d, n, m) }

// FMAXV leaves the largest lane of n in lane 0, a NaN if there is one.
func (a *Asm) FMAXV(d, n V) {
	a.word(0x6e30f800|uint32(n)<<5|uint32(d), "fmaxv s%d, v%d.4s", d, n)
}

// FNEG is d = −n.
func (a *Asm) FNEG(d, n V) { a.two(0x6ea0f800, "fneg", "4s", d, "4s", n) }

// FCMGT sets lanes to ones where n > m.
func (a *Asm) FCMGT(d, n, m V) { a.three(0x6ea0e400, "fcmgt", "4s", d, n, m) }

// FCVTL widens the 4 low binary16 values of n.
func (a *Asm) FCVTL(d, n V) { a.two(0x0e217800, "fcvtl", "4s", d, "4h", n) }

// FCVTL2 widens the 4 high binary16 values of n.
func (a *Asm) FCVTL2(d, n V) { a.two(0x4e217800, "fcvtl2", "4s", d, "8h", n) }

// SCVTF converts integers, rounding to nearest even.
func (a *Asm) SCVTF(d, n V) { a.two(0x4e21d800, "scvtf", "4s", d, "4s", n) }

// FCVTNS rounds to integers, to nearest even.
func (a *Asm) FCVTNS(d, n V) { a.two(0x4e21a800, "fcvtns", "4s", d, "4s", n) }

// SHLL widens the 4 low 16-bit lanes of n into high halves.
func (a *Asm) SHLL(d, n V) {
	a.word(0x2e613800|uint32(n)<<5|uint32(d), "shll v%d.4s, v%d.4h, #16", d, n)
}

// SHLL2 widens the 4 high 16-bit lanes of n into high halves.
func (a *Asm) SHLL2(d, n V) {
	a.word(0x6e613800|uint32(n)<<5|uint32(d), "shll2 v%d.4s, v%d.8h, #16", d, n)
}

// SXTL extends the 8 low signed bytes of n to 16 bits.
func (a *Asm) SXTL(d, n V) { a.two(0x0f08a400, "sxtl", "8h", d, "8b", n) }

// UXTL extends the 8 low unsigned bytes of n to 16 bits.
func (a *Asm) UXTL(d, n V) { a.two(0x2f08a400, "uxtl", "8h", d, "8b", n) }

// SXTLHalfs extends the 4 low signed 16-bit lanes of n.
func (a *Asm) SXTLHalfs(d, n V) { a.two(0x0f10a400, "sxtl", "4s", d, "4h", n) }

// UXTLHalfs extends the 4 low unsigned 16-bit lanes of n.
func (a *Asm) UXTLHalfs(d, n V) { a.two(0x2f10a400, "uxtl", "4s", d, "4h", n) }

// TBL takes each byte of d from table, at the place that the byte of n names.
func (a *Asm) TBL(d, table, n V) {
	a.word(0x4e000000|uint32(n)<<16|uint32(table)<<5|uint32(d), "tbl v%d.16b, {v%d.16b}, v%d.16b", d, table, n)
}

// SDOT adds to each lane the products of its 4 signed bytes in n and the 4 signed
// bytes of lane i of m.
func (a *Asm) SDOT(d, n, m V, i int) { a.element(0x4f80e000, "sdot", "16b", "4b", d, n, m, i) }

// SADDLV leaves the sum of the 16 signed bytes of n in 16 bits.
func (a *Asm) SADDLV(d, n V) {
	a.word(0x4e303800|uint32(n)<<5|uint32(d), "saddlv h%d, v%d.16b", d, n)
}

// AND is d = n & m.
func (a *Asm) AND(d, n, m V) { a.three(0x4e201c00, "and", "16b", d, n, m) }

// BIC is d = n &^ m.
func (a *Asm) BIC(d, n, m V) { a.three(0x4e601c00, "bic", "16b", d, n, m) }

// ORR is d = n | m.
func (a *Asm) ORR(d, n, m V) { a.three(0x4ea01c00, "orr", "16b", d, n, m) }

// EOR is d = n ^ m.
func (a *Asm) EOR(d, n, m V) { a.three(0x6e201c00, "eor", "16b", d, n, m) }

// BIT takes the bits of n into d where m has ones.
func (a *Asm) BIT(d, n, m V) { a.three(0x6ea01c00, "bit", "16b", d, n, m) }

// BIF takes the bits of n into d where m has zeros.
func (a *Asm) BIF(d, n, m V) { a.three(0x6ee01c00, "bif", "16b", d, n, m) }

// MOV is d = n.
func (a *Asm) MOV(d, n V) { a.ORR(d, n, n) }

// Zero is d = 0.
func (a *Asm) Zero(d V) { a.word(0x6f00e400|uint32(d), "movi v%d.2d, #0", d) }

// MOVIBytes sets each byte of d.
func (a *Asm) MOVIBytes(d V, x byte) {
	a.word(0x4f00e400|uint32(x>>5)<<16|uint32(x&31)<<5|uint32(d), "movi v%d.16b, #%#x", d, x)
}

// USHRBytes shifts each byte right.
func (a *Asm) USHRBytes(d, n V, shift int) {
	a.shift(0x6f000400, "ushr", "16b", d, n, 16-shift, shift)
}

// SHLBytes shifts each byte left.
func (a *Asm) SHLBytes(d, n V, shift int) { a.shift(0x4f005400, "shl", "16b", d, n, 8+shift, shift) }

// SHL shifts left.
func (a *Asm) SHL(d, n V, shift int) { a.shift(0x4f005400, "shl", "4s", d, n, 32+shift, shift) }

// SSHR shifts right, keeping the sign.
func (a *Asm) SSHR(d, n V, shift int) { a.shift(0x4f000400, "sshr", "4s", d, n, 64-shift, shift) }

// ADD is d = n + m.
func (a *Asm) ADD(d, n, m V) { a.three(0x4ea08400, "add", "4s", d, n, m) }

// SUBBytes is d = n − m, byte by byte.
func (a *Asm) SUBBytes(d, n, m V) { a.three(0x6e208400, "sub", "16b", d, n, m) }

// MUL is d = n·m, of integers.
func (a *Asm) MUL(d, n, m V) { a.three(0x4ea09c00, "mul", "4s", d, n, m) }

// MLA is d = d + n·m, of integers.
func (a *Asm) MLA(d, n, m V) { a.three(0x4ea09400, "mla", "4s", d, n, m) }

// MULElement is d = n·m[i], of integers.
func (a *Asm) MULElement(d, n, m V, i int) { a.element(0x4f808000, "mul", "4s", "s", d, n, m, i) }

// MLAElement is d = d + n·m[i], of integers.
func (a *Asm) MLAElement(d, n, m V, i int) { a.element(0x6f800000, "mla", "4s", "s", d, n, m, i) }

// UMAX is the larger one of unsigned integers.
func (a *Asm) UMAX(d, n, m V) { a.three(0x6ea06400, "umax", "4s", d, n, m) }

// UMAXV leaves the largest unsigned lane of n in lane 0.
func (a *Asm) UMAXV(d, n V) {
	a.word(0x6eb0a800|uint32(n)<<5|uint32(d), "umaxv s%d, v%d.4s", d, n)
}

// CMGE sets lanes to ones where n ≥ m, of signed integers.
func (a *Asm) CMGE(d, n, m V) { a.three(0x4ea03c00, "cmge", "4s", d, n, m) }

// NarrowWords packs 16 integers of n into bytes, with saturation. The registers
// of n are overwritten.
func (a *Asm) NarrowWords(d V, n [4]V) {
	a.two(0x0e614800, "sqxtn", "4h", n[0], "4s", n[0])
	a.two(0x4e614800, "sqxtn2", "8h", n[0], "4s", n[1])
	a.two(0x0e614800, "sqxtn", "4h", n[2], "4s", n[2])
	a.two(0x4e614800, "sqxtn2", "8h", n[2], "4s", n[3])
	a.two(0x0e214800, "sqxtn", "8b", d, "8h", n[0])
	a.two(0x4e214800, "sqxtn2", "16b", d, "8h", n[2])
}

// EXT is the 16 bytes from byte i on of n and m, one after the other.
func (a *Asm) EXT(d, n, m V, i int) {
	a.word(0x6e000000|uint32(m)<<16|uint32(i)<<11|uint32(n)<<5|uint32(d), "ext v%d.16b, v%d.16b, v%d.16b, #%d", d, n, m, i)
}

// DUP is lane i of n in each lane.
func (a *Asm) DUP(d, n V, i int) {
	a.word(0x4e040400|uint32(i)<<19|uint32(n)<<5|uint32(d), "dup v%d.4s, v%d.s[%d]", d, n, i)
}

// DUPGeneral is the low half of n in each lane.
func (a *Asm) DUPGeneral(d V, n R) {
	a.word(0x4e040c00|uint32(n)<<5|uint32(d), "dup v%d.4s, w%d", d, int(n))
}

// INS sets lane i of d to the low half of n.
func (a *Asm) INS(d V, i int, n R) {
	a.word(0x4e041c00|uint32(i)<<19|uint32(n)<<5|uint32(d), "mov v%d.s[%d], w%d", d, i, int(n))
}

// SMOV is the signed 16 low bits of n.
func (a *Asm) SMOV(d R, n V) {
	a.word(0x0e022c00|uint32(n)<<5|uint32(d), "smov w%d, v%d.h[0]", int(d), n)
}

// LD2 loads 4 pairs: the first values into d, the second ones into the register
// after it.
func (a *Asm) LD2(d V, base R) {
	a.word(0x4c408800|uint32(base)<<5|uint32(d), "ld2 {v%d.4s, v%d.4s}, [x%d]", d, d+1, int(base))
}

// ST2 stores what LD2 loads.
func (a *Asm) ST2(d V, base R) {
	a.word(0x4c008800|uint32(base)<<5|uint32(d), "st2 {v%d.4s, v%d.4s}, [x%d]", d, d+1, int(base))
}

// ST1 stores lane i and moves base on by step bytes.
func (a *Asm) ST1(d V, i int, base, step R) {
	code := 0x0d808000 | uint32(i>>1)<<30 | uint32(i&1)<<12
	a.word(code|uint32(step)<<16|uint32(base)<<5|uint32(d), "st1 {v%d.s}[%d], [x%d], x%d", d, i, int(base), int(step))
}

// FMULScalar is d = n·m of lane 0; the others become zero.
func (a *Asm) FMULScalar(d, n, m V) { a.scalar(0x1e200800, "fmul", d, n, m) }

// FDIVScalar is d = n / m of lane 0; the others become zero.
func (a *Asm) FDIVScalar(d, n, m V) { a.scalar(0x1e201800, "fdiv", d, n, m) }

// FSUBScalar is d = n − m of lane 0; the others become zero.
func (a *Asm) FSUBScalar(d, n, m V) { a.scalar(0x1e203800, "fsub", d, n, m) }

func (a *Asm) scalar(code uint32, name string, d, n, m V) {
	a.word(code|uint32(m)<<16|uint32(n)<<5|uint32(d), "%s s%d, s%d, s%d", name, d, n, m)
}

// SCVTFGeneral converts the integer in the low half of n.
func (a *Asm) SCVTFGeneral(d V, n R) {
	a.word(0x1e220000|uint32(n)<<5|uint32(d), "scvtf s%d, w%d", d, int(n))
}

// FMOVGeneral moves lane 0 of n to a general register.
func (a *Asm) FMOVGeneral(d R, n V) {
	a.word(0x1e260000|uint32(n)<<5|uint32(d), "fmov w%d, s%d", int(d), n)
}
