// Join: the splits of a head, ascending.
struct Params {
  heads: u32, kv_heads: u32, dim: u32, window: u32,
  scale: f32, cap: f32, splits: u32, pad1: u32,
  q: Rows, dst: Rows
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> parts: array<f32>;
@group(0) @binding(2) var<storage, read_write> dst: array<f32>;

@compute @workgroup_size(DIM)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let row = wg.y;
  let start = (row * p.heads + wg.x) * batch[1] * (DIM + 2u);
  let splits = position(row) / 256u + 1u;
  var m = parts[start + DIM];
  var sum = parts[start + DIM + 1u];
  var o = parts[start + local.x];
  for (var s = 1u; s < splits; s++) {
    let at_split = start + s * (DIM + 2u);
    let other = parts[at_split + DIM];
    let most = max(m, other);
    let old = exponential(m - most);
    let new_part = exponential(other - most);
    sum = fma(sum, old, parts[at_split + DIM + 1u] * new_part);
    o = fma(o, old, parts[at_split + local.x] * new_part);
    m = most;
  }
  dst[at(p.dst, row, wg.x * DIM + local.x)] = o / sum;
}
