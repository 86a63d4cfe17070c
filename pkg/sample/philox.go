package sample

import "math/bits"

// Constants of Philox 4x32 (Salmon, Moraes, Dror, Shaw, Parallel random
// numbers: as easy as 1, 2, 3, 2011).
const (
	philoxM0 = 0xD2511F53
	philoxM1 = 0xCD9E8D57
	philoxW0 = 0x9E3779B9
	philoxW1 = 0xBB67AE85
)

// philox returns the block of Philox 4x32-10 for one counter and key.
func philox(counter [4]uint32, key [2]uint32) [4]uint32 {
	c, k := counter, key
	for range 10 {
		hi0, lo0 := bits.Mul32(philoxM0, c[0])
		hi1, lo1 := bits.Mul32(philoxM1, c[2])
		c = [4]uint32{hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0}
		k[0] += philoxW0
		k[1] += philoxW1
	}
	return c
}

// uniform returns a number in [0, 1) with 53 random bits, keyed by the seed and
// counted by the position of the token and the number of the choice.
func uniform(seed, position uint64, choice uint32) float64 {
	r := philox(
		[4]uint32{uint32(position), uint32(position >> 32), choice, 0},
		[2]uint32{uint32(seed), uint32(seed >> 32)},
	)
	return float64((uint64(r[0])<<32|uint64(r[1]))>>11) * 0x1p-53
}
