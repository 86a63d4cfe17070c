// Bias: adds a vector to every row of up to three buffers, whose columns are counted
// through.
struct Params { end0: u32, end1: u32, end2: u32, pad: u32, x0: Rows, x1: Rows, x2: Rows, b0: Rows, b1: Rows, b2: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> b0: array<f32>;
@group(0) @binding(2) var<storage, read> b1: array<f32>;
@group(0) @binding(3) var<storage, read> b2: array<f32>;
@group(0) @binding(4) var<storage, read_write> x0: array<f32>;
@group(0) @binding(5) var<storage, read_write> x1: array<f32>;
@group(0) @binding(6) var<storage, read_write> x2: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let col = wg.x * 64u + local.x;
  if (col < p.end0) {
    let i = at(p.x0, wg.y, col);
    x0[i] = x0[i] + b0[at(p.b0, 0u, col)];
  } else if (col < p.end1) {
    let i = at(p.x1, wg.y, col - p.end0);
    x1[i] = x1[i] + b1[at(p.b1, 0u, col - p.end0)];
  } else if (col < p.end2) {
    let i = at(p.x2, wg.y, col - p.end1);
    x2[i] = x2[i] + b2[at(p.b2, 0u, col - p.end1)];
  }
}
