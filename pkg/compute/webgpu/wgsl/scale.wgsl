// Scale: x *= factor.
struct Params { factor: f32, pad0: u32, pad1: u32, pad2: u32, x: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let col = wg.x * 64u + local.x;
  if (col < p.x.cols) {
    let i = at(p.x, wg.y, col);
    x[i] = x[i] * p.factor;
  }
}
