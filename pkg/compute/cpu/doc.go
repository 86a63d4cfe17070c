// Package cpu computes on the processor: weights stay packed and are multiplied
// packed (quant.CPU), everything between is package vec.
//
// # Class
//
// All instruction sets and all numbers of threads give the same bits, "cpu/v1".
// They are fixed by the kernels of the weight formats (package p16), by package
// vec, and by what is written here:
//
//   - A norm is (x·s)·gain with s = 1/√(SumSq/n + eps). Its result, and the
//     input of LinearAdd, is taken in the form the weight's kernel wants: int8
//     blocks or float32.
//   - LinearAdd and the activation of NormGateUp work on the rounded results of
//     the products.
//   - Attention goes over pages of 64 keys at absolute positions ascending, from
//     the page of the first key seen to that of the query's own position.
//     Keys and values are float32, read back from the cache, a row's own too.
//   - Norms of heads, and of what is added, are norms as above, of float32 rows.
//     Logits are capped by the steps that cap scores.
//   - A mixture's shares are exp(score − largest), by vec's Exp, divided by their
//     sum in ascending order of experts; what an expert gives is rounded, multiplied
//     by its share, rounded, and added in the same order.
//
// A row with a sum of squares that is not finite is listed in NotFinite and
// counts as zeros from that norm on.
//
// All of this holds for rounding to nearest even with denormals kept. Each worker
// looks at its thread's mode when it starts a pass; a wrong one fails the pass
// with ErrFloatMode. It is not set right: whoever changed it may do so again
// inside a pass, and an answer of other bits is worse than none.
//
// # Threads
//
// A pass is a list of steps; a step is a number of independent tasks. A gang of
// workers, each with its own operating system thread, takes tasks from the step's
// counter, and meets at a barrier after each step: it spins a bounded time, then
// parks. Between passes the gang is parked.
//
// # Reference mode
//
// With Config.Reference weights are decoded exactly, activations stay as they
// are and sums run in float64: the oracle of the goldens, and slow.
package cpu
