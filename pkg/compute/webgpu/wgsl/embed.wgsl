// Embed: row i of dst is row ids[i] of the table. A workgroup of 64 threads takes
// up to 64 segments of a row.
struct Params { supers: u32, list: u32, first: u32, rows: u32, base: u32, pad0: u32, pad1: u32, pad2: u32, dst: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> dst: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let segment = wg.x * 64u + local.x;
  let id = item(p.list, wg.y);
  if (segment >= SEGMENTS || id < p.first || id - p.first >= p.rows) { return; }
  let q = fetch(p.base + id - p.first, segment);
  for (var i = 0u; i < 8u; i++) {
    let e = unpack(q, i / 4u, i & 3u);
    let to = wg.y * p.dst.row + 2u * i * p.dst.group + segment * p.dst.segment;
    dst[to] = e.a;
    dst[to + p.dst.group] = e.b;
  }
}
