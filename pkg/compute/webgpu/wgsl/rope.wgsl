// Rope: rotates q and k in place and stores k and v in the cache, of float32. A thread
// turns a pair.
struct Params { heads: u32, kv_heads: u32, dim: u32, pairs: u32, neox: u32, pad0: u32, pad1: u32, pad2: u32, q: Rows, k: Rows, v: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>; // [position][pair]: cosine and sine
@group(0) @binding(2) var<storage, read_write> q: array<f32>;
@group(0) @binding(3) var<storage, read_write> k: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read_write> cache: array<f32>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let row = wg.y;
  let half_dim = p.dim / 2u;
  let i = wg.x * 128u + local.x;
  let head = i / half_dim;
  let d = pair(i % half_dim);
  var angle = vec2<f32>(1.0, 0.0);
  let turns = i % half_dim < p.pairs;
  if (turns) { angle = angles[position(row) * p.pairs + i % half_dim]; }
  if (head < p.heads) {
    if (!turns) { return; }
    let start = vec2<u32>(at(p.q, row, head * p.dim + d.x), at(p.q, row, head * p.dim + d.y));
    let turned = rotate(q[start.x], q[start.y], angle);
    q[start.x] = turned.x;
    q[start.y] = turned.y;
  } else if (head < p.heads + p.kv_heads) {
    let h = head - p.heads;
    let start = vec2<u32>(at(p.k, row, h * p.dim + d.x), at(p.k, row, h * p.dim + d.y));
    var turned = vec2<f32>(k[start.x], k[start.y]);
    if (turns) { turned = rotate(turned.x, turned.y, angle); }
    k[start.x] = turned.x;
    k[start.y] = turned.y;
    if (APART) { return; }
    cache[key_at(row, p.kv_heads, h, d.x)] = turned.x;
    cache[key_at(row, p.kv_heads, h, d.y)] = turned.y;
    cache[value_at(row, p.kv_heads, h, d.x)] = v[at(p.v, row, h * p.dim + d.x)];
    cache[value_at(row, p.kv_heads, h, d.y)] = v[at(p.v, row, h * p.dim + d.y)];
  }
}
