package p16gen

import (
	"encoding/binary"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The instructions of AMX (Intel 64 and IA-32 Architectures Software Developer's
// Manual, volume 2). Neither avo nor Go's assembler knows them, so they are
// written as bytes: a VEX prefix, the opcode and its operands.

// tmm is a tile register: up to 16 rows of 64 bytes.
type tmm byte

// The last byte of the prefix, which tells instructions of one opcode apart.
const (
	vexNone = 0x78
	vexF3   = 0x7a
	vexF2   = 0x7b
)

// Opcodes.
const (
	opConfigure = 0x49 // shapes of all tile registers; contents of one
	opMove      = 0x4b // between memory and a tile register
	opDot       = 0x5e // products of int8
)

// tileConfigure (LDTILECFG) gives the tile registers the shapes at base.
func tileConfigure(base reg.GPPhysical) {
	address := []byte{low3(base)}
	vex(vexNone, opConfigure, address, base)
}

// tileRelease (TILERELEASE) returns the tile registers to their initial state,
// in which they cost nothing to save when the thread is interrupted.
func tileRelease() { vex(vexNone, opConfigure, []byte{0xc0}) }

// tileZero (TILEZERO) clears t.
func tileZero(t tmm) { vex(vexF2, opConfigure, []byte{0xc0 | byte(t)<<3}) }

// tileDot (TDPBSSD) adds to the int32 of dst, for each row of a and each column
// of b, the products of their signed bytes. A row of b holds four bytes of each
// column.
func tileDot(dst, a, b tmm) { code(encodeDot(dst, a, b)) }

func encodeDot(dst, a, b tmm) []byte {
	return []byte{0xc4, 0xe2, vexF2 ^ byte(b)<<3, opDot, 0xc0 | byte(dst)<<3 | byte(a)}
}

// rows addresses the rows of a tile register in memory: the first one at disp
// behind base, each step·scale bytes behind the one before.
type rows struct {
	base, step reg.GPPhysical
	scale      byte // 1 or 2
	disp       int32
}

// tileLoad (TILELOADD) loads t.
func tileLoad(t tmm, from rows) { vex(vexF2, opMove, from.operands(t), from.base, from.step) }

// tileStore (TILESTORED) stores t.
func tileStore(t tmm, to rows) { vex(vexF3, opMove, to.operands(t), to.base, to.step) }

// operands encodes t and the address, with a displacement of 32 bits.
func (r rows) operands(t tmm) []byte {
	const sib = 4
	b := []byte{0x80 | byte(t)<<3 | sib, r.scale/2<<6 | low3(r.step)<<3 | low3(r.base)}
	return binary.LittleEndian.AppendUint32(b, uint32(r.disp))
}

func low3(r reg.GPPhysical) byte { return byte(r.PhysicalIndex()) & 7 }

// vex writes an instruction without a second source, which reads the registers of
// its address.
func vex(last, opcode byte, operands []byte, address ...reg.GPPhysical) {
	code(encode(last, opcode, operands, address...), address...)
}

// encode returns the bytes of such an instruction. The fourth bits of base and
// index are in the prefix.
func encode(last, opcode byte, operands []byte, address ...reg.GPPhysical) []byte {
	second := byte(0xe2)
	for i, r := range address {
		if r.PhysicalIndex() >= 8 {
			second &^= 0x20 << i
		}
	}
	return append([]byte{0xc4, second, last, opcode}, operands...)
}

// code writes the bytes of an instruction that reads registers.
func code(b []byte, reads ...reg.GPPhysical) {
	for i, v := range b {
		in := &ir.Instruction{Opcode: "BYTE", Operands: []operand.Op{operand.U8(v)}}
		if i == 0 {
			for _, r := range reads {
				in.Inputs = append(in.Inputs, r)
			}
		}
		build.Instruction(in)
	}
}
