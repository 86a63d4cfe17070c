package tensor

import (
	"math"
	"testing"
)

// halfValue computes the value of binary16 bits from the definition, in float64.
func halfValue(h uint16) float64 {
	sign := 1.0
	if h&0x8000 != 0 {
		sign = -1
	}
	exp, frac := int(h>>10)&0x1F, float64(h&0x3FF)
	switch {
	case exp == 0x1F && frac != 0:
		return math.NaN()
	case exp == 0x1F:
		return math.Inf(int(sign))
	case exp == 0:
		return math.Copysign(math.Ldexp(frac, -24), sign)
	}
	return sign * math.Ldexp(1024+frac, exp-25)
}

func TestF16ToF32Exhaustive(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		got, want := F16ToF32(h), halfValue(h)
		if math.IsNaN(want) {
			if !math.IsNaN(float64(got)) || math.Float32bits(got)&0x00400000 == 0 {
				t.Fatalf("F16ToF32(%#04x) = %#08x, want a quiet NaN", h, math.Float32bits(got))
			}
			continue
		}
		if math.Float32bits(got) != math.Float32bits(float32(want)) {
			t.Fatalf("F16ToF32(%#04x) = %g, want %g", h, got, want)
		}
	}
}

func TestF16RoundTripExhaustive(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		want := h
		if h&0x7C00 == 0x7C00 && h&0x3FF != 0 {
			want |= 0x200
		}
		if got := F32ToF16(F16ToF32(h)); got != want {
			t.Fatalf("F32ToF16(F16ToF32(%#04x)) = %#04x, want %#04x", h, got, want)
		}
	}
}

// TestF32ToF16Rounding looks at every pair of neighbours, at the point halfway
// between them (exact in float32) and at the float32 on either side of it.
func TestF32ToF16Rounding(t *testing.T) {
	for h := uint16(0); h < 0x7C00; h++ {
		lo, hi := halfValue(h), halfValue(h+1)
		if h == 0x7BFF {
			hi = 65536 // where the next value would be
		}
		mid := float32((lo + hi) / 2)
		even := h + h&1
		for _, c := range []struct {
			x    float32
			want uint16
		}{
			{mid, even},
			{math.Nextafter32(mid, 0), h},
			{math.Nextafter32(mid, math.MaxFloat32), h + 1},
		} {
			if got := F32ToF16(c.x); got != c.want {
				t.Fatalf("F32ToF16(%g) = %#04x, want %#04x", c.x, got, c.want)
			}
			if got := F32ToF16(-c.x); got != c.want|0x8000 {
				t.Fatalf("F32ToF16(%g) = %#04x, want %#04x", -c.x, got, c.want|0x8000)
			}
		}
	}
	for _, x := range []float32{65536, math.MaxFloat32, float32(math.Inf(1))} {
		if got := F32ToF16(x); got != 0x7C00 {
			t.Errorf("F32ToF16(%g) = %#04x, want infinity", x, got)
		}
	}
}

func TestBF16RoundTripExhaustive(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		x := BF16ToF32(h)
		if math.Float32bits(x) != uint32(h)<<16 {
			t.Fatalf("BF16ToF32(%#04x) = %#08x", h, math.Float32bits(x))
		}
		want := h
		if x != x {
			want |= 0x40
		}
		if got := F32ToBF16(x); got != want {
			t.Fatalf("F32ToBF16(BF16ToF32(%#04x)) = %#04x, want %#04x", h, got, want)
		}
	}
}

func TestF32ToBF16Rounding(t *testing.T) {
	for h := uint16(0); h < 0x7F80; h++ {
		mid := uint32(h)<<16 | 0x8000
		for _, c := range []struct {
			bits uint32
			want uint16
		}{{mid, h + h&1}, {mid - 1, h}, {mid + 1, h + 1}} {
			if got := F32ToBF16(math.Float32frombits(c.bits)); got != c.want {
				t.Fatalf("F32ToBF16(bits %#08x) = %#04x, want %#04x", c.bits, got, c.want)
			}
			if got := F32ToBF16(math.Float32frombits(c.bits | 1<<31)); got != c.want|0x8000 {
				t.Fatalf("F32ToBF16(bits %#08x) = %#04x, want %#04x", c.bits|1<<31, got, c.want|0x8000)
			}
		}
	}
}

func TestNaNKeepsItsKind(t *testing.T) {
	for _, bits := range []uint32{0x7F800001, 0xFF800001, 0x7FC12345, 0xFFFFFFFF} {
		x := math.Float32frombits(bits)
		if h := F32ToF16(x); h&0x7E00 != 0x7E00 || uint32(h>>15) != bits>>31 {
			t.Errorf("F32ToF16(NaN %#08x) = %#04x", bits, h)
		}
		if h := F32ToBF16(x); h&0x7FC0 != 0x7FC0 || uint32(h>>15) != bits>>31 {
			t.Errorf("F32ToBF16(NaN %#08x) = %#04x", bits, h)
		}
	}
}
