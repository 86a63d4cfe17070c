//go:build ignore

package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	codeBlock = 32 // codes that are packed together
	halfBytes = 2
)

// codes generates what makes float32 of halves and of codes. A group's values are
// a table in a register, and codes choose from it.
func (l level) codes() {
	l.halves()
	l.toHalves()
	for _, bits := range []int{8, 4, 3, 2} {
		l.unpack(bits)
	}
	l.columns()
}

// halves converts blocks of 16 halves.
func (l level) halves() {
	l.open("Halves", "func(dst *float32, src *byte, blocks int)", "converts blocks of 16 halves")
	dst, src, blocks := argument("dst"), argument("src"), argument("blocks")
	Label("block")
	for i := range l.parts() {
		v := l.vec()
		VCVTPH2PS(at(src, i*l.width()*halfBytes), v)
		VMOVUPS(v, at(dst, i*l.bytes))
	}
	ADDQ(Imm(lanes*halfBytes), src)
	ADDQ(Imm(4*lanes), dst)
	down(blocks, "block")
	done()
}

// toHalves converts blocks of 16 values.
func (l level) toHalves() {
	l.open("ToHalves", "func(dst *byte, src *float32, blocks int)", "converts blocks of 16 values to halves")
	dst, src, blocks := argument("dst"), argument("src"), argument("blocks")
	const nearest = 0
	Label("block")
	for i := range l.parts() {
		v := l.vec()
		VMOVUPS(at(src, i*l.bytes), v)
		VCVTPS2PH(Imm(nearest), v, at(dst, i*l.width()*halfBytes))
	}
	ADDQ(Imm(lanes*halfBytes), dst)
	ADDQ(Imm(4*lanes), src)
	down(blocks, "block")
	done()
}

// unpacker is the state of an unpack kernel.
type unpacker struct {
	level
	bits      int
	dst, src  reg.GPVirtual
	ramps     []reg.VecVirtual // codes of the tables as numbers
	tables    []reg.VecVirtual
	counts    []reg.VecVirtual // by which a word is shifted to bring each lane's 2 bits down
	index     reg.VecVirtual   // 0, 1, 2, ...
	mask, one reg.VecVirtual   // AVX2: of a code's low bits, and 1
}

// unpack writes the values of groups of some blocks of codes.
func (l level) unpack(bits int) {
	l.open(fmt.Sprintf("Codes%d", bits), "func(dst *float32, src, scales *byte, groups, blocks int)", fmt.Sprintf("writes the values of groups of blocks of codes of %d bits", bits))
	u := unpacker{level: l, bits: bits, dst: argument("dst"), src: argument("src")}
	scales, groups, blocks := argument("scales"), argument("groups"), argument("blocks")
	u.prepare()
	left := GP64()
	Label("group")
	scale, least := l.half(at(scales, 0)), l.half(at(scales, halfBytes))
	if u.tables == nil { // more values than a register's: they are computed
		u.tables = []reg.VecVirtual{scale, least}
	}
	for i, ramp := range u.ramps {
		VMOVAPS(ramp, u.tables[i])
		VFMADD213PS(least, scale, u.tables[i])
	}
	MOVQ(blocks, left)
	Label("block")
	u.block()
	ADDQ(Imm(uint64(codeBlock*bits/8)), u.src)
	ADDQ(U32(4*codeBlock), u.dst)
	down(left, "block")
	ADDQ(Imm(2*halfBytes), scales)
	down(groups, "group")
	done()
}

// half returns a register with a half in each lane, as float32.
func (l level) half(place Mem) reg.VecVirtual {
	v := l.vec()
	if l == avx512 {
		VPBROADCASTW(place, v.AsY())
		VCVTPH2PS(v.AsY(), v)
	} else {
		VPBROADCASTW(place, v.AsX())
		VCVTPH2PS(v.AsX(), v)
	}
	return v
}

// prepare loads what all groups need.
func (u *unpacker) prepare() {
	index := u.vec()
	u.loadIntegers(table.Offset(indexTable), index)
	u.index, u.mask = index, u.spreadBits(3)
	if u.bits < 4 {
		low := u.vec()
		VPSLLD(Imm(1), index, low) // 0, 2, 4, ...
		u.counts = append(u.counts, low)
		if u.level == avx2 {
			high := u.vec()
			VPADDD(u.spreadBits(16), low, high)
			u.counts = append(u.counts, high)
		}
	}
	switch {
	case u.bits == 8:
	case u.bits == 4 && u.level == avx2:
		u.mask = u.spreadBits(15)
		return
	case u.bits == 4:
		u.ramp(index)
	case u.bits == 3 && u.level == avx2:
		u.one = u.spreadBits(1)
		u.ramp(index)
	default:
		low := u.vec()
		u.and(u.mask, index, low)
		u.ramp(low)
		if u.bits == 3 {
			high := u.vec()
			VPADDD(u.spreadBits(4), low, high)
			u.ramp(high)
		}
	}
}

// ramp adds a table of the values of codes.
func (u *unpacker) ramp(codes reg.VecVirtual) {
	r := u.vec()
	VCVTDQ2PS(codes, r)
	u.ramps, u.tables = append(u.ramps, r), append(u.tables, u.vec())
}

func (l level) loadIntegers(from Mem, to reg.VecVirtual) {
	if l == avx512 {
		VMOVDQU32(from, to)
	} else {
		VMOVDQU(from, to)
	}
}

// spreadBits returns a register with an integer in each lane.
func (l level) spreadBits(x uint32) reg.VecVirtual {
	v := l.vec()
	VPBROADCASTD(number(x), v)
	return v
}

func (l level) and(a, b, to reg.VecVirtual) {
	if l == avx512 {
		VPANDD(a, b, to)
	} else {
		VPAND(a, b, to)
	}
}

// block writes the values of 32 codes.
func (u *unpacker) block() {
	switch u.bits {
	case 8:
		u.wholeBytes()
		return
	case 4:
		u.nibbles()
		return
	}
	high := u.vec()
	if u.bits == 3 && u.level == avx2 {
		VPBROADCASTD(at(u.src, 8), high)
	}
	for word := range 2 {
		low := u.vec()
		VPBROADCASTD(at(u.src, 4*word), low)
		for i, count := range u.counts {
			codes, v := u.vec(), u.vec()
			VPSRLVD(count, low, codes)
			switch {
			case u.bits == 3 && u.level == avx2:
				top := u.vec()
				u.and(u.mask, codes, codes)
				VPSRLD(Imm(uint64(16*word+8*i)), high, top)
				VPSRLVD(u.index, top, top)
				VPAND(u.one, top, top)
				VPSLLD(Imm(2), top, top)
				VPOR(top, codes, codes)
				VPERMPS(u.tables[0], codes, v)
			case u.bits == 3:
				mask := K()
				KMOVW(at(u.src, 8+2*word), mask)
				VPERMPS(u.tables[0], codes, v)
				VPERMPS(u.tables[1], codes, mask, v)
			default:
				VPERMPS(u.tables[0], codes, v)
			}
			VMOVUPS(v, at(u.dst, 4*lanes*word+u.bytes*i))
		}
	}
}

// bytes writes the values of 32 codes of 8 bits.
func (u *unpacker) wholeBytes() {
	for part := range codeBlock / u.width() {
		v := u.vec()
		VPMOVZXBD(at(u.src, part*u.width()), v)
		VCVTDQ2PS(v, v)
		VFMADD213PS(u.tables[1], u.tables[0], v)
		VMOVUPS(v, at(u.dst, part*u.bytes))
	}
}

// columns writes rows of 64 values of codes of 8 bits; each column has a scale and
// a least value.
func (l level) columns() {
	l.open("Columns", "func(dst *float32, src *byte, scale, least *float32, rows int)", "writes rows of 64 values of codes of 8 bits")
	dst, src, scale, least, rows := argument("dst"), argument("src"), argument("scale"), argument("least"), argument("rows")
	Label("row")
	for part := range keys / l.width() {
		v := l.vec()
		VPMOVZXBD(at(src, part*l.width()), v)
		VCVTDQ2PS(v, v)
		VMULPS(at(scale, part*l.bytes), v, v) // exact
		VADDPS(at(least, part*l.bytes), v, v)
		VMOVUPS(v, at(dst, part*l.bytes))
	}
	ADDQ(Imm(keys), src)
	ADDQ(U32(keysBytes), dst)
	down(rows, "row")
	done()
}

// nibbles writes the values of 32 codes of 4 bits: code i and i+16 share a byte.
func (u *unpacker) nibbles() {
	for part := range u.parts() {
		bytes := u.vec()
		VPMOVZXBD(at(u.src, part*u.width()), bytes)
		for half := range 2 {
			v, codes := u.vec(), bytes
			if half == 1 {
				codes = u.vec()
				VPSRLD(Imm(4), bytes, codes)
			}
			if u.level == avx512 { // the lowest 4 bits choose
				VPERMPS(u.tables[0], codes, v)
			} else {
				u.and(u.mask, codes, v)
				VCVTDQ2PS(v, v)
				VFMADD213PS(u.tables[1], u.tables[0], v)
			}
			VMOVUPS(v, at(u.dst, half*4*lanes+part*u.bytes))
		}
	}
}
