// Pick: where the largest value of a row is, over a part of the row. Values are
// compared as whole numbers of the same order: what a compiler takes for granted of
// floats does not hold for a NaN. The two zeros are equal.
struct Params { quads: u32, pad0: u32, pad1: u32, pad2: u32, x: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> parts: array<u32>; // [row][64][order, column]

var<workgroup> orders: array<u32, 256>;
var<workgroup> columns: array<u32, 256>;

// order is greater for a greater value, and greatest for what is no number.
fn order(v: f32) -> u32 {
  let b = bitcast<u32>(v);
  if ((b & 0x7fffffffu) > 0x7f800000u) { return 0xffffffffu; }
  if ((b & 0x7fffffffu) == 0u) { return 0x80000000u; }
  if (b >= 0x80000000u) { return b ^ 0xffffffffu; }
  return b | 0x80000000u;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  var best = 0u;
  var column = 0u;
  for (var q = wg.x * 256u + local.x; q < p.quads; q += 16384u) {
    let v = x[wg.y * p.x.row + q % 16u * p.x.group + q / 16u * p.x.segment];
    for (var i = 0u; i < 4u; i++) {
      let o = order(v[i]);
      if (o > best && 4u * q + i < p.x.cols) {
        best = o;
        column = 4u * q + i;
      }
    }
  }
  orders[local.x] = best;
  columns[local.x] = column;
  for (var n = 128u; n > 0u; n = n / 2u) {
    workgroupBarrier();
    if (local.x < n) {
      let o = orders[local.x + n];
      let c = columns[local.x + n];
      if (o > orders[local.x] || o == orders[local.x] && c < columns[local.x]) {
        orders[local.x] = o;
        columns[local.x] = c;
      }
    }
  }
  if (local.x == 0u) {
    let to = 2u * (wg.y * 64u + wg.x);
    parts[to] = orders[0];
    parts[to + 1u] = columns[0];
  }
}
