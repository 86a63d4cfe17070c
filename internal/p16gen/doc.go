// Package p16gen is the skeleton of the vector kernels over the P16 layout
// (pkg/quant/p16), written with avo. A format's asm.go describes how its packed
// bytes become operands (Int8 or Float) and calls Generate; the loops over
// groups, blocks and tokens, the scaling and the stores are here.
//
// A kernel walks the groups and, for each, the blocks in one or more passes. A
// pass owns some cells, each with one accumulator: a token and a slice of the 16
// lanes (and, for float formats, one of several groups side by side). How cells
// are divided into passes changes the speed and never a bit, because no
// accumulator is ever split.
//
// AMX has a skeleton of its own (wide.go), to which a format adds how its blocks
// become signed bytes (Int8.Unpack, Super.Unpack).
//
// The package is imported by generators only, never by the product.
package p16gen
