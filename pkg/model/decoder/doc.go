// Package decoder holds what today's decoders have in common: a residual stream
// that blocks add to, an embedding before and a normed head after them, attention
// with rotary positions and grouped queries, and gated feed-forward networks, of
// which a mixture routes rows to a few.
//
// A family is a function that lists the blocks of a layer. It names each tensor
// once, with its shape: the same function names the tensors of a part, checks a
// file, and loads.
package decoder
