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
@group(0) @binding(2) var<storage, read> cache: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dst: array<f32>;
@group(0) @binding(4) var<storage, read_write> parts: array<f32>; // [row][head][split][dim + 2]

var<workgroup> query: array<vec4<f32>, GROUPS>; // of 4 dimensions
var<workgroup> weight: array<f32, 256>;
var<workgroup> largest: array<f32, 16>;
var<workgroup> chains: array<vec4<f32>, CHAINS>; // [4][GROUPS]
var<workgroup> totals: array<f32, 4>;

fn dot4(a: vec4<f32>, b: vec4<f32>, s: f32) -> f32 {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, s))));
}

// product is a key times the query; start is where the key's first group lies.
fn product(start: u32) -> f32 {
  var s = 0.0;
  if (GROUPS % 8u == 0u) {
    for (var d = 0u; d < GROUPS; d += 8u) {
      let k = start + d * 64u;
      let k0 = cache[k];
      let k1 = cache[k + 64u];
      let k2 = cache[k + 128u];
      let k3 = cache[k + 192u];
      let k4 = cache[k + 256u];
      let k5 = cache[k + 320u];
      let k6 = cache[k + 384u];
      let k7 = cache[k + 448u];
      s = dot4(query[d], k0, s);
      s = dot4(query[d + 1u], k1, s);
      s = dot4(query[d + 2u], k2, s);
      s = dot4(query[d + 3u], k3, s);
      s = dot4(query[d + 4u], k4, s);
      s = dot4(query[d + 5u], k5, s);
      s = dot4(query[d + 6u], k6, s);
      s = dot4(query[d + 7u], k7, s);
    }
    return s;
  }
  for (var d = 0u; d < GROUPS; d++) { s = dot4(query[d], cache[start + d * 64u], s); }
  return s;
}

// mixed adds count values times their weights; start is where the first value's group lies.
fn mixed(first: u32, count: u32, start: u32) -> vec4<f32> {
  var s = vec4<f32>(0.0);
  var k = 0u;
  for (; k + 8u <= count; k += 8u) {
    let at_k = start + k * GROUPS;
    let v0 = cache[at_k];
    let v1 = cache[at_k + GROUPS];
    let v2 = cache[at_k + 2u * GROUPS];
    let v3 = cache[at_k + 3u * GROUPS];
    let v4 = cache[at_k + 4u * GROUPS];
    let v5 = cache[at_k + 5u * GROUPS];
    let v6 = cache[at_k + 6u * GROUPS];
    let v7 = cache[at_k + 7u * GROUPS];
    s = fma(vec4<f32>(weight[first + k]), v0, s);
    s = fma(vec4<f32>(weight[first + k + 1u]), v1, s);
    s = fma(vec4<f32>(weight[first + k + 2u]), v2, s);
    s = fma(vec4<f32>(weight[first + k + 3u]), v3, s);
    s = fma(vec4<f32>(weight[first + k + 4u]), v4, s);
    s = fma(vec4<f32>(weight[first + k + 5u]), v5, s);
    s = fma(vec4<f32>(weight[first + k + 6u]), v6, s);
    s = fma(vec4<f32>(weight[first + k + 7u]), v7, s);
  }
  for (; k < count; k++) { s = fma(vec4<f32>(weight[first + k]), cache[start + k * GROUPS], s); }
  return s;
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
  workgroupBarrier();
  let key = split * 256u + t;
  let seen = key >= first && key <= last;
  var score = -1.0e30;
  if (seen) {
    let s = product((page(row, key / 64u) * 2u * p.kv_heads + kv) * GROUPS * 64u + key % 64u);
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
  for (var i = t; i < 4u * GROUPS; i += 256u) {
    let chain = i / GROUPS;
    let start = split * 256u + chain * 64u;
    var s = vec4<f32>(0.0);
    if (start <= last && start + 63u >= first) {
      let base = (page(row, start / 64u) * 2u * p.kv_heads + p.kv_heads + kv) * GROUPS * 64u + i % GROUPS;
      s = mixed(chain * 64u, min(last + 1u - start, 64u), base);
    }
    chains[i] = s;
  }
  if (t >= 252u) {
    var total = 0.0;
    for (var k = 0u; k < 64u; k++) { total = total + weight[(t - 252u) * 64u + k]; }
    totals[t - 252u] = total;
  }
  workgroupBarrier();
  let sum = (totals[0] + totals[1]) + (totals[2] + totals[3]);
  if (t < DIM) {
    let g = t / 4u;
    let d = t & 3u;
    let o = (chains[g][d] + chains[GROUPS + g][d]) + (chains[2u * GROUPS + g][d] + chains[3u * GROUPS + g][d]);
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
