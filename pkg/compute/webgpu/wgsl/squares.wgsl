// Squares: the norm's factor of each row, for products of many rows. The sum goes as
// in matvec: a lane adds its columns ascending, then lanes ascending.
struct Params { eps: f32, columns: f32, list: u32, pad: u32, x: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> factors: array<f32>;

var<workgroup> sums: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  var row = wg.x;
  if (p.list != 0u) { row = item(p.list - 1u, wg.x); }
  var sum = 0.0;
  for (var c = 0u; c < CHUNKS; c++) {
    let segment = local.x * CHUNKS + c;
    if (segment < SEGMENTS) {
      for (var i = 0u; i < 16u; i++) {
        let v = x[row * p.x.row + i * p.x.group + segment * p.x.segment];
        sum = fma(v.w, v.w, fma(v.z, v.z, fma(v.y, v.y, fma(v.x, v.x, sum))));
      }
    }
  }
  sums[local.x] = sum;
  workgroupBarrier();
  if (local.x == 0u) {
    var total = 0.0;
    for (var l = 0u; l < LANES; l++) { total = total + sums[l]; }
    if (!finite(total)) { bad[row] = 1u; }
    factors[wg.x] = norm_factor(total, p.columns, p.eps);
  }
}
