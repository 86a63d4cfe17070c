// Attend: the softmax-weighted mean of values of one head of one row over a split of 256
// positions. Scores are chains over dimensions ascending; weights are e to the score minus
// the split's largest; values are added in four chains of 64 positions ascending, joined in
// pairs. A split leaves its mean times its weight, its largest score and its weight.
struct Params {
  heads: u32, kv_heads: u32, dim: u32, window: u32,
  scale: f32, cap: f32, splits: u32, pad1: u32,
  q: Rows, dst: Rows
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> cache: array<f32>;
@group(0) @binding(3) var<storage, read_write> dst: array<f32>;
@group(0) @binding(4) var<storage, read_write> parts: array<f32>; // [row][head][split][dim + 2]

var<workgroup> query: array<f32, DIM>;
var<workgroup> weight: array<f32, 256>;
var<workgroup> largest: array<f32, 16>;
var<workgroup> chains: array<f32, CHAINS>; // [4][dim + 1]: the last is the weight

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
  if (t < DIM) { query[t] = q[at(p.q, row, head * DIM + t)]; }
  workgroupBarrier();
  let key = split * 256u + t;
  let seen = key >= first && key <= last;
  var score = -1.0e30;
  if (seen) {
    let base = (page(row, key / 64u) * 2u * p.kv_heads + kv) * DIM * 64u + key % 64u;
    var s = 0.0;
    for (var d = 0u; d < DIM; d++) { s = fma(query[d], cache[base + d * 64u], s); }
    score = s * p.scale;
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
  for (var i = t; i < 4u * DIM; i += 256u) {
    let d = i % DIM;
    let chain = i / DIM;
    let start = split * 256u + chain * 64u;
    var s = 0.0;
    var total = 0.0;
    if (start <= last && start + 63u >= first) {
      let base = (page(row, start / 64u) * 2u * p.kv_heads + p.kv_heads + kv) * DIM * 64u + d;
      let count = min(last + 1u - start, 64u);
      for (var k = 0u; k < count; k++) {
        let w = weight[chain * 64u + k];
        s = fma(w, cache[base + k * DIM], s);
        total = total + w;
      }
    }
    chains[chain * (DIM + 1u) + d] = s;
    if (d == 0u) { chains[chain * (DIM + 1u) + DIM] = total; }
  }
  workgroupBarrier();
  let sum = (chains[DIM] + chains[2u * DIM + 1u]) + (chains[3u * DIM + 2u] + chains[4u * DIM + 3u]);
  if (t < DIM) {
    let o = (chains[t] + chains[DIM + 1u + t]) + (chains[2u * DIM + 2u + t] + chains[3u * DIM + 3u + t]);
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
