// Norm and add: x += rmsnorm(y)∘gain. A sum of squares: a thread adds its columns
// ascending, then threads ascending, sixteen at a time.
struct Params { eps: f32, pad0: u32, pad1: u32, pad2: u32, x: Rows, y: Rows, gain: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> gain: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

var<workgroup> sums: array<f32, 256>;
var<workgroup> parts: array<f32, 16>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let row = wg.x;
  var sum = 0.0;
  for (var c = local.x; c < p.y.cols; c += 256u) {
    let v = y[at(p.y, row, c)];
    sum = fma(v, v, sum);
  }
  sums[local.x] = sum;
  workgroupBarrier();
  if (local.x < 16u) {
    var part = 0.0;
    for (var t = 0u; t < 16u; t++) { part = part + sums[local.x * 16u + t]; }
    parts[local.x] = part;
  }
  workgroupBarrier();
  var total = 0.0;
  for (var t = 0u; t < 16u; t++) { total = total + parts[t]; }
  if (!finite(total)) {
    if (local.x == 0u) { bad[row] = 1u; }
    return;
  }
  let factor = norm_factor(total, f32(p.y.cols), p.eps);
  for (var c = local.x; c < p.y.cols; c += 256u) {
    let i = at(p.x, row, c);
    x[i] = fma(y[at(p.y, row, c)] * factor, gain[at(p.gain, 0u, c)], x[i]);
  }
}
