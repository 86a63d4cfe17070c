// Attend: the softmax-weighted mean of values of one head of one row over a split of 256
// positions. Scores are chains over dimensions ascending; weights are e to the score minus
// the split's largest; values and weights are added in 16 chains of 16 positions ascending,
// chains ascending. A split leaves its sum of values, its largest score and its weight.
struct Params {
  heads: u32, kv_heads: u32, dim: u32, window: u32,
  scale: f32, cap: f32, pad0: u32, pad1: u32,
  q: Rows, dst: Rows
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> cache: array<vec4<f32>>;
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

// product is a key times the query; start is where the key's first group lies.
fn product(start: u32) -> f32 {
  var s = 0.0;
  if (QUADS % 16u == 0u) {
    for (var d = 0u; d < QUADS; d += 16u) {
      let k = start + d * 64u;
      let k0 = cache[k + 0u];
      let k1 = cache[k + 64u];
      let k2 = cache[k + 128u];
      let k3 = cache[k + 192u];
      let k4 = cache[k + 256u];
      let k5 = cache[k + 320u];
      let k6 = cache[k + 384u];
      let k7 = cache[k + 448u];
      let k8 = cache[k + 512u];
      let k9 = cache[k + 576u];
      let k10 = cache[k + 640u];
      let k11 = cache[k + 704u];
      let k12 = cache[k + 768u];
      let k13 = cache[k + 832u];
      let k14 = cache[k + 896u];
      let k15 = cache[k + 960u];
      s = dot4(query[d + 0u], k0, s);
      s = dot4(query[d + 1u], k1, s);
      s = dot4(query[d + 2u], k2, s);
      s = dot4(query[d + 3u], k3, s);
      s = dot4(query[d + 4u], k4, s);
      s = dot4(query[d + 5u], k5, s);
      s = dot4(query[d + 6u], k6, s);
      s = dot4(query[d + 7u], k7, s);
      s = dot4(query[d + 8u], k8, s);
      s = dot4(query[d + 9u], k9, s);
      s = dot4(query[d + 10u], k10, s);
      s = dot4(query[d + 11u], k11, s);
      s = dot4(query[d + 12u], k12, s);
      s = dot4(query[d + 13u], k13, s);
      s = dot4(query[d + 14u], k14, s);
      s = dot4(query[d + 15u], k15, s);
    }
    return s;
  }
  for (var d = 0u; d < QUADS; d++) { s = dot4(query[d], cache[start + d * 64u], s); }
  return s;
}

// mixed adds 16 values from key first of the split on, count of them seen, times their
// weights; start is where the first value's group lies.
fn mixed(first: u32, count: u32, start: u32) -> vec4<f32> {
  var s = vec4<f32>(0.0);
  if (count == 16u) {
    let v0 = cache[start + 0u * QUADS];
    let v1 = cache[start + 1u * QUADS];
    let v2 = cache[start + 2u * QUADS];
    let v3 = cache[start + 3u * QUADS];
    let v4 = cache[start + 4u * QUADS];
    let v5 = cache[start + 5u * QUADS];
    let v6 = cache[start + 6u * QUADS];
    let v7 = cache[start + 7u * QUADS];
    let v8 = cache[start + 8u * QUADS];
    let v9 = cache[start + 9u * QUADS];
    let v10 = cache[start + 10u * QUADS];
    let v11 = cache[start + 11u * QUADS];
    let v12 = cache[start + 12u * QUADS];
    let v13 = cache[start + 13u * QUADS];
    let v14 = cache[start + 14u * QUADS];
    let v15 = cache[start + 15u * QUADS];
    s = fma(vec4<f32>(weight[first + 0u]), v0, s);
    s = fma(vec4<f32>(weight[first + 1u]), v1, s);
    s = fma(vec4<f32>(weight[first + 2u]), v2, s);
    s = fma(vec4<f32>(weight[first + 3u]), v3, s);
    s = fma(vec4<f32>(weight[first + 4u]), v4, s);
    s = fma(vec4<f32>(weight[first + 5u]), v5, s);
    s = fma(vec4<f32>(weight[first + 6u]), v6, s);
    s = fma(vec4<f32>(weight[first + 7u]), v7, s);
    s = fma(vec4<f32>(weight[first + 8u]), v8, s);
    s = fma(vec4<f32>(weight[first + 9u]), v9, s);
    s = fma(vec4<f32>(weight[first + 10u]), v10, s);
    s = fma(vec4<f32>(weight[first + 11u]), v11, s);
    s = fma(vec4<f32>(weight[first + 12u]), v12, s);
    s = fma(vec4<f32>(weight[first + 13u]), v13, s);
    s = fma(vec4<f32>(weight[first + 14u]), v14, s);
    s = fma(vec4<f32>(weight[first + 15u]), v15, s);
    return s;
  }
  for (var k = 0u; k < count; k++) { s = fma(vec4<f32>(weight[first + k]), cache[start + k * QUADS], s); }
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
  let key = split * 256u + t;
  let seen = key >= first && key <= last;
  var base = 0u;
  if (seen) { base = (page(row, key / 64u) * 2u * p.kv_heads + kv) * QUADS * 64u + key % 64u; }
  workgroupBarrier();
  var score = -1.0e30;
  if (seen) {
    score = product(base) * p.scale;
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
      let from_value = ((page(row, start / 64u) * 2u * p.kv_heads + p.kv_heads + kv) * 64u + start % 64u) * QUADS + i % QUADS;
      s = mixed(chain * 16u, min(last + 1u - start, 16u), from_value);
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
  if (t < DIM) {
    var o = 0.0;
    for (var c = 0u; c < 16u; c++) { o = o + chains[c * QUADS + t / 4u][t & 3u]; }
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
