// Package p16 is the P16 layout of CPU weights and the portable half of its
// kernels: what every format that packs groups of quant.Lanes rows shares.
//
// A group interleaves 16 rows so that one vector register holds the same few
// columns of all of them. A dot product then runs down a lane, without sums
// across lanes, and one activation serves 16 rows by a broadcast. A packed
// group has (nearly) as many bytes as its rows have in the file.
//
// The value of a row is specified bit by bit, and every kernel of every
// instruction set gives those bits:
//
//	int8 activations: for blocks of 32 columns ascending
//	    acc = fma(float32(isum), round(d_w·d_a), acc)
//	    acc = fma(m_w, ds, acc)                        formats with a minimum
//	f32 activations:  for columns ascending
//	    acc = fma(w, x, acc)
//
// isum is the exact integer dot product of the block, and msum that of the
// integer minimums of its two halves with the sums of the activations there.
// There is one acc per row and token, whatever the tile width, the number of
// groups or the level.
//
// A format supplies how one lane of a block is unpacked (Int8) or how one
// column is widened (Float), and gets portable kernels; its vector kernels are
// generated with the skeletons in internal/p16gen (amd64) and
// internal/neongen (arm64).
//
// At level AMX (Kernels.AMX) the integers of a block come from the tile unit, 16
// tokens by 16 lanes at a time, and are scaled in the same order: integer sums are
// exact in any order, so the bits stay. Linux grants a process the tile registers on
// request (Levels); a kernel shapes them, uses them and gives them back within one
// call, which Go does not preempt, so they are no part of a goroutine's state.
package p16
