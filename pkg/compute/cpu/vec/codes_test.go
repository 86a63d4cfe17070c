package vec

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoal-llm/shoal/pkg/tensor"
)

// TestHalvesAndCodes: every level gives the values of the portable one for any
// bytes, all groups and lengths, and writes nothing else.
func TestHalvesAndCodes(t *testing.T) {
	eachLevel(t, func(t *testing.T, ops, ref *Ops) {
		rng := rand.New(rand.NewPCG(31, 32))
		src := make([]byte, 4096)
		for i := range src {
			src[i] = byte(rng.Uint32())
		}
		for n := 0; n <= 100; n++ {
			got, want := make([]float32, n+16), make([]float32, n+16)
			ops.Halves(got[:n], src[n:])
			ref.Halves(want[:n], src[n:])
			sameNumbers(t, fmt.Sprintf("%d halves", n), got, want)
			x, halved, other := wild(rng, n), make([]byte, 2*n+16), make([]byte, 2*n+16)
			ops.ToHalves(halved, x)
			ref.ToHalves(other, x)
			if string(halved) != string(other) {
				t.Errorf("%d values become other halves", n)
			}
		}
		for rows := range 5 {
			got, want := make([]float32, rows*Keys+16), make([]float32, rows*Keys+16)
			scale, least := new([Keys]float32), new([Keys]float32)
			ref.Halves(scale[:], src[rows:])
			ref.Halves(least[:], src[500:])
			ops.Columns(got[:rows*Keys], src[rows:], scale, least)
			ref.Columns(want[:rows*Keys], src[rows:], scale, least)
			sameNumbers(t, fmt.Sprintf("%d rows of columns", rows), got, want)
		}
		for _, bits := range []int{8, 4, 3, 2} {
			for _, group := range []int{32, 64, 128} {
				for groups := range 5 {
					n := groups * group
					got, want := make([]float32, n+16), make([]float32, n+16)
					ops.Codes(got[:n], src[groups:], src[1000+bits:], bits, group)
					ref.Codes(want[:n], src[groups:], src[1000+bits:], bits, group)
					sameNumbers(t, fmt.Sprintf("%d groups of %d in %d bits", groups, group, bits), got, want)
				}
			}
		}
	})
}

// TestPackCodes: a value is off by about a cell at most, and what halves
// round; in the mean values are closer than the middles of equal cells would be.
func TestPackCodes(t *testing.T) {
	ref := portable()
	rng := rand.New(rand.NewPCG(33, 34))
	for _, bits := range []int{4, 3, 2} {
		for _, group := range []int{32, 64, 128} {
			for _, offset := range []float64{0, 3, -200} {
				x, back := make([]float32, 64*group), make([]float32, 64*group)
				for i := range x {
					x[i] = float32(rng.NormFloat64() + offset)
				}
				src, scales := make([]byte, len(x)*bits/8), make([]byte, 4*64)
				PackCodes(src, scales, x, bits, group)
				ref.Codes(back, src, scales, bits, group)
				var off2, cells2 float64
				for i, v := range x {
					low, high := bounds(x[i/group*group:][:group])
					most := (high-low)/math.Pow(2, float64(bits))*1.2 + math.Abs(offset)/1000
					cell := (high - low) / math.Pow(2, float64(bits))
					middle := low + (math.Floor(min((float64(v)-low)/cell, math.Pow(2, float64(bits))-1))+0.5)*cell
					off2, cells2 = off2+math.Pow(float64(back[i]-v), 2), cells2+math.Pow(middle-float64(v), 2)
					if off := math.Abs(float64(back[i] - v)); off > most {
						t.Errorf("%d bits in groups of %d: %g reads as %g, off by %g, more than %g", bits, group, v, back[i], off, most)
					}
				}
				if offset == 0 && off2 > cells2 {
					t.Errorf("%d bits in groups of %d: squared error %g, of equal cells %g", bits, group, off2, cells2)
				}
			}
		}
	}
}

func bounds(x []float32) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, v := range x {
		low, high = min(low, float64(v)), max(high, float64(v))
	}
	return low, high
}

// TestPackCodesOfWhatHalvesDoNotHold: it reads as NaN, all of the group; equal
// values read as themselves.
func TestPackCodesOfWhatHalvesDoNotHold(t *testing.T) {
	ref := portable()
	src, scales, back := make([]byte, 16), make([]byte, 4), make([]float32, 32)
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), 1e6, -1e6} {
		x := make([]float32, 32)
		x[9] = bad
		PackCodes(src, scales, x, 4, 32)
		ref.Codes(back, src, scales, 4, 32)
		for i, v := range back {
			if v == v {
				t.Errorf("%g among zeros: value %d reads as %g", bad, i, v)
			}
		}
	}
	for _, v := range []float32{0, 1, -65504, 0x1p-24} {
		x := make([]float32, 32)
		for i := range x {
			x[i] = v
		}
		PackCodes(src, scales, x, 4, 32)
		ref.Codes(back, src, scales, 4, 32)
		if back[0] != v || back[31] != v || tensor.F16ToF32(binary.LittleEndian.Uint16(scales)) != 0 {
			t.Errorf("32 times %g reads as %g", v, back[0])
		}
	}
}
