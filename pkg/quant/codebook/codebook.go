// Package codebook holds the values that 4-bit codes stand for in formats whose
// steps are not even.
package codebook

// IQ4 returns the values of the codes of IQ4_NL and IQ4_XS: 16 levels, closer to
// each other around zero, where most weights are. None is −128.
func IQ4() [16]int8 {
	return [16]int8{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}
}
