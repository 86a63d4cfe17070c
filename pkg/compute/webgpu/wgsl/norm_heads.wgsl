// Norm of heads: each head of DIM columns of a row, in place, for up to two buffers. A
// sum of squares: a thread adds its columns ascending, then threads ascending.
struct Params { heads: u32, eps: f32, pad0: u32, pad1: u32, x0: Rows, x1: Rows, g0: Rows, g1: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> g0: array<f32>;
@group(0) @binding(2) var<storage, read> g1: array<f32>;
@group(0) @binding(3) var<storage, read_write> x0: array<f32>;
@group(0) @binding(4) var<storage, read_write> x1: array<f32>;

var<workgroup> sums: array<f32, 32>;

fn value(head: u32, row: u32, c: u32) -> f32 {
  if (head < p.heads) { return x0[at(p.x0, row, head * DIM + c)]; }
  return x1[at(p.x1, row, (head - p.heads) * DIM + c)];
}

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let head = wg.x;
  let row = wg.y;
  var sum = 0.0;
  for (var c = local.x; c < DIM; c += 32u) {
    let v = value(head, row, c);
    sum = fma(v, v, sum);
  }
  sums[local.x] = sum;
  workgroupBarrier();
  var total = 0.0;
  for (var t = 0u; t < 32u; t++) { total = total + sums[t]; }
  if (!finite(total) && local.x == 0u) { bad[row] = 1u; }
  let factor = norm_factor(total, f32(DIM), p.eps);
  for (var c = local.x; c < DIM; c += 32u) {
    if (head < p.heads) {
      x0[at(p.x0, row, head * DIM + c)] = value(head, row, c) * factor * g0[at(p.g0, 0u, c)];
    } else {
      x1[at(p.x1, row, (head - p.heads) * DIM + c)] = value(head, row, c) * factor * g1[at(p.g1, 0u, c)];
    }
  }
}
