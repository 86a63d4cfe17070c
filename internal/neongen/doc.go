// Package neongen writes the arm64 kernels of the CPU class: Go assembler text,
// with NEON instructions as words, since Go's assembler knows only some of them.
//
// Asm is the writer: functions, registers, loads and one method for each vector
// instruction. Int8 and Float are the skeleton of the kernels over the P16 layout
// (pkg/quant/p16), as internal/p16gen is for amd64: a format's asm_neon.go says
// how its packed bytes become operands and calls Generate. Nibbles, Fives, Codebook
// and Halves are ways to unpack that several formats share.
//
// The vector half needs ARMv8.2 with FEAT_DotProd: activations and unpacked
// weights are signed bytes, and SDOT sums the products of 4 columns in each of 4
// rows. 16 rows are four vectors, called quarters.
//
// The package is imported by generators only, never by the product.
package neongen
