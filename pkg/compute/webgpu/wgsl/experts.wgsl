// Experts: adds what a row's experts give, by their shares, ascending.
struct Params { used: u32, pad0: u32, pad1: u32, pad2: u32, x: Rows, y: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>; // [row][used]
@group(0) @binding(2) var<storage, read> routes: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let col = wg.x * 64u + local.x;
  let row = wg.y;
  if (col >= p.x.cols) { return; }
  var sum = 0.0;
  for (var u = 0u; u < p.used; u++) {
    let place = row * p.used + u;
    sum = fma(bitcast<f32>(routes[2u * place + 1u]), y[at(p.y, place, col)], sum);
  }
  let i = at(p.x, row, col);
  x[i] = x[i] + sum;
}
