// Package webgpu computes on GPUs through WebGPU: Vulkan, Metal or DX12.
//
// # Kernels
//
// Each file in wgsl is one operation in plain WGSL. Go puts constants in front (the
// sizes of a row, of a workgroup), then what kernels share and, where weights are
// read, the format's own code (quant.GPU), and the end of a product: store, add,
// gate, rope. There is no preprocessor.
//
// # Class
//
// A device's bits follow from the kernel set, which is hashed, its geometry and the
// adapter with its driver: all of them stand in Info.Class. On one device they are
// the same for any batch, chunk, page layout, split into stages and tuning:
//
//   - A sum over the columns of a row goes by geometry: pieces of whole segments of
//     64 columns, each a chain of fused multiply-adds ascending, then pieces
//     ascending. One row (matvec), many (matmul) and the norm's squares keep to it.
//   - The norm's factor is applied after the sum, in all of them.
//   - Attention goes by splits of 256 positions, which are joined ascending.
//   - Packed keys and values are a function of the row, and a page's codes of its halves.
//   - Compilers may fuse, reorder or approximate: exp is a polynomial of ours,
//     factors of an fma are finished before it, and a NaN is found by its exponent.
//
// # Recording
//
// A pass is a list of commands; parameters and bind groups are made once and found
// again by what they hold. Weights that are multiplied together are moved into one
// store the first time, so a layer takes five dispatches for a decoded token: norm
// with q, k, v, rope and store; attention; output; norm with gate, up and activation;
// down. Contexts beyond a split take one more, to join. While a pass runs, the next
// one is encoded as if it did the same, which it does when tokens are decoded.
package webgpu
