// Package tensor holds what every reader of numbers shares: the 16-bit floating
// point formats of weights and activations.
package tensor

import "math"

// F16ToF32 returns the value of the IEEE 754 binary16 bits h. It is exact; a
// NaN comes back quiet with its payload, as VCVTPH2PS does.
func F16ToF32(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exp := uint32(h>>10) & 0x1F
	frac := uint32(h & 0x3FF)
	switch exp {
	case 0: // zero or subnormal: frac · 2⁻²⁴ is exact
		return math.Float32frombits(math.Float32bits(float32(frac)*0x1p-24) | sign)
	case 0x1F:
		if frac != 0 {
			frac |= 0x200
		}
		return math.Float32frombits(sign | 0x7F800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// F32ToF16 returns the IEEE 754 binary16 bits nearest to x, ties to even.
// Values beyond 65504 by half a step or more become infinite; a NaN becomes
// quiet and keeps the high bits of its payload, as VCVTPS2PH does.
func F32ToF16(x float32) uint16 {
	bits := math.Float32bits(x)
	sign := uint16(bits>>16) & 0x8000
	mag := bits &^ (1 << 31)
	switch {
	case mag > 0x7F800000: // NaN
		return sign | 0x7E00 | uint16(mag>>13)&0x3FF
	case mag >= 0x477FF000: // 65520, halfway to the first value that does not fit
		return sign | 0x7C00
	case mag < 0x38800000: // below 2⁻¹⁴: a subnormal is a count of 2⁻²⁴
		return sign | uint16(math.RoundToEven(float64(math.Float32frombits(mag))*0x1p24))
	}
	mag -= 112 << 23 // the exponent's new bias
	return sign | uint16((mag+0xFFF+mag>>13&1)>>13)
}

// BF16ToF32 returns the value of the bfloat16 bits h, exactly.
func BF16ToF32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// F32ToBF16 returns the bfloat16 bits nearest to x, ties to even. A NaN becomes
// quiet and keeps the high bits of its payload.
func F32ToBF16(x float32) uint16 {
	bits := math.Float32bits(x)
	if bits&^(1<<31) > 0x7F800000 {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7FFF + bits>>16&1) >> 16)
}
