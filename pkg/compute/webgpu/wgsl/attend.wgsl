// Attend: the softmax-weighted mean of values of one head of one row over a split of 256
// positions. Scores are chains over dimensions ascending; weights are e to the score minus
// the split's largest; values and weights are added in 16 chains of 16 positions ascending,
// chains ascending. A split leaves its sum of values, its largest score and its weight.
struct Params {
  heads: u32, kv_heads: u32, dim: u32, window: u32,
  scale: f32, cap: f32,
  recent: u32, upper: u32, // words of a packed cache before the pools of finer forms
  q: Rows, dst: Rows
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read_write> dst: array<f32>;
@group(0) @binding(4) var<storage, read_write> parts: array<f32>; // [row][head][split][dim + 2]

var<workgroup> query: array<vec4<f32>, QUADS>; // of 4 dimensions
var<workgroup> weight: array<f32, 256>;
var<workgroup> largest: array<f32, 16>;
var<workgroup> chains: array<vec4<f32>, CHAINS>; // [16][QUADS]
var<workgroup> totals: array<f32, 16>;

fn dot4(a: vec4<f32>, b: vec4<f32>, s: f32) -> f32 {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, s))));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let t = local.x;
  let head = wg.x;
  let row = wg.y;
  let split = wg.z;
  let last = position(row);
  if (split > last / 256u) { return; }
  var first = 0u;
  if (p.window != 0u && last >= p.window) { first = last - p.window + 1u; }
  let kv = head / (p.heads / p.kv_heads);
  if (t < DIM) { query[t / 4u][t & 3u] = q[at(p.q, row, head * DIM + t)]; }
  let key = split * 256u + t;
  let seen = key >= first && key <= last;
  place(row, kv, key, seen);
  workgroupBarrier();
  prepare(t, row, kv, split, last);
  var score = -1.0e30;
  if (seen) {
    score = product() * p.scale;
    if (p.cap > 0.0) { score = p.cap * tanh_of(score / p.cap); }
  }
  weight[t] = score;
  workgroupBarrier();
  if (t < 16u) {
    var m = weight[t * 16u];
    for (var i = 1u; i < 16u; i++) { m = max(m, weight[t * 16u + i]); }
    largest[t] = m;
  }
  workgroupBarrier();
  var m = largest[0];
  for (var i = 1u; i < 16u; i++) { m = max(m, largest[i]); }
  weight[t] = select(0.0, exponential(score - m), seen);
  workgroupBarrier();
  for (var i = t; i < 16u * QUADS; i += 256u) {
    let chain = i / QUADS;
    let start = split * 256u + chain * 16u;
    var s = vec4<f32>(0.0);
    if (start <= last && start + 15u >= first) {
      s = mixed(row, kv, chain * 16u, min(last + 1u - start, 16u), start, i % QUADS);
    }
    chains[i] = s;
  }
  if (t >= 240u) {
    var total = 0.0;
    for (var k = 0u; k < 16u; k++) { total = total + weight[(t - 240u) * 16u + k]; }
    totals[t - 240u] = total;
  }
  workgroupBarrier();
  var sum = 0.0;
  for (var c = 0u; c < 16u; c++) { sum = sum + totals[c]; }
  var o = 0.0;
  if (t < DIM) {
    for (var c = 0u; c < 16u; c++) { o = o + chains[c * QUADS + t / 4u][t & 3u]; }
  }
  o = finished(t, o);
  if (t < DIM) {
    if (batch[1] == 1u) {
      dst[at(p.dst, row, head * DIM + t)] = o / sum;
    } else {
      let to = ((row * p.heads + head) * batch[1] + split) * (DIM + 2u);
      parts[to + t] = o;
      if (t == 0u) {
        parts[to + DIM] = m;
        parts[to + DIM + 1u] = sum;
      }
    }
  }
}
