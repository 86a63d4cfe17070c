// Overwrite: rows of float32 in the batch's list go to rows of dst, which stand before
// them.
struct Params { list: u32, rows: u32, pad0: u32, pad1: u32, dst: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> dst: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let col = wg.x * 64u + local.x;
  if (col < p.dst.cols) {
    dst[at(p.dst, item(p.list, wg.y), col)] = bitcast<f32>(item(p.list, p.rows + wg.y * p.dst.cols + col));
  }
}
