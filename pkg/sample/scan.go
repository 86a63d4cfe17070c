package sample

import "math"

// Keys of floats as ordered integers: the bits of positive numbers as they are,
// those of negative numbers with all but the sign inverted. One integer
// maximum and one minimum find the peak and every NaN at once.
const (
	keyPosInf = 0x7f800000
	keyNegInf = ^0x7f800000
)

func orderKey(v float32) int32 {
	b := int32(math.Float32bits(v))
	return b ^ int32(uint32(b>>31)>>1)
}

// Largest returns the id of the largest logit of a row, the lowest of equal ones.
// It is not ok when there is a NaN or a positive infinity, or nothing above negative
// infinity.
func Largest(row []float32) (id int32, ok bool) {
	peak, ok := peakOf(row)
	if !ok {
		return 0, false
	}
	return indexOf(row, peak), true
}

// peakOf returns the largest value. It is not ok when there is a NaN or a
// positive infinity, or nothing above negative infinity.
func peakOf(row []float32) (peak float32, ok bool) {
	hi0, hi1, lo0, lo1 := int32(math.MinInt32), int32(math.MinInt32), int32(math.MaxInt32), int32(math.MaxInt32)
	rest := row
	for len(rest) >= 4 {
		a, b, c, d := orderKey(rest[0]), orderKey(rest[1]), orderKey(rest[2]), orderKey(rest[3])
		hi0, lo0 = max(hi0, a), min(lo0, a)
		hi1, lo1 = max(hi1, b), min(lo1, b)
		hi0, lo0 = max(hi0, c), min(lo0, c)
		hi1, lo1 = max(hi1, d), min(lo1, d)
		rest = rest[4:]
	}
	for _, v := range rest {
		k := orderKey(v)
		hi0, lo0 = max(hi0, k), min(lo0, k)
	}
	hi, lo := max(hi0, hi1), min(lo0, lo1)
	if hi >= keyPosInf || hi <= keyNegInf || lo < keyNegInf {
		return 0, false
	}
	return math.Float32frombits(uint32(hi ^ int32(uint32(hi>>31)>>1))), true
}

// indexOf returns the lowest id with the given value, which is in the row. The
// two zeros are equal.
func indexOf(row []float32, v float32) int32 {
	for id, x := range row {
		if x == v {
			return int32(id)
		}
	}
	return -1
}
