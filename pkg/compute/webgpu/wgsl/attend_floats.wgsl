// Keys and values of float32.
@group(0) @binding(2) var<storage, read> cache: array<vec4<f32>>;

var<private> start: u32; // where the first group of the thread's key lies

fn place(row: u32, kv: u32, key: u32, seen: bool) {
  start = 0u;
  if (seen) { start = (page(row, key / 64u) * 2u * p.kv_heads + kv) * QUADS * 64u + key % 64u; }
}

fn prepare(t: u32, row: u32, kv: u32, split: u32, last: u32) {}

fn finished(t: u32, o: f32) -> f32 { return o; }

// product is the thread's key times the query.
fn product() -> f32 {
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

// mixed adds 16 values of 4 dimensions from a key on, which is key first of the split, count
// of them seen, times their weights.
fn mixed(row: u32, kv: u32, first: u32, count: u32, key: u32, quad: u32) -> vec4<f32> {
  let start = ((page(row, key / 64u) * 2u * p.kv_heads + p.kv_heads + kv) * 64u + key % 64u) * QUADS + quad;
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
