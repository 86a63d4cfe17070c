// Keep: stores a head's key (even) or value (odd) of a row in the form that is written: halves
// or codes of 8 bits.
struct Params { kv_heads: u32, recent: u32, pad0: u32, pad1: u32, k: Rows, v: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> cache: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let t = local.x;
  let head = wg.x / 2u;
  let values = (wg.x & 1u) == 1u;
  let row = wg.y;
  let place = position(row) % 64u;
  for (var d = t; d < DIM; d += 64u) {
    if (values) {
      turning[d] = v[at(p.v, row, head * DIM + d)];
    } else {
      turning[d] = k[at(p.k, row, head * DIM + d)];
    }
  }
  if (BITS == 8u) {
    turn(t, 64u);
    pack(t, values, head_at(0u, 8u, page(row, position(row) / 64u), p.kv_heads, head), place);
    return;
  }
  workgroupBarrier();
  var base = 0u;
  if (STEPS) {
    base = head_at(p.recent, 16u, recent_page(row, position(row) / 64u), p.kv_heads, head);
  } else {
    base = head_at(0u, 16u, page(row, position(row) / 64u), p.kv_heads, head);
  }
  for (var i = t; i < DIM / 2u; i += 64u) {
    let to = base + select(i * 64u + place, 32u * DIM + place * (DIM / 2u) + i, values);
    cache[to] = halves(turning[2u * i], turning[2u * i + 1u]);
  }
}

// pack stores codes of 8 bits, a thread for a group.
fn pack(t: u32, values: bool, base: u32, place: u32) {
  if (t >= DIM / GROUP) { return; }
  let first = t * GROUP;
  var low = turning[first];
  var high = low;
  var good = true;
  for (var i = 0u; i < GROUP; i++) {
    let x = turning[first + i];
    low = min(low, x);
    high = max(high, x);
    good = good && finite(x);
  }
  var least = half_bits(low);
  let start = unpack2x16float(least).x;
  var scale = half_bits((high - start) / 255.0);
  good = good && low >= -65504.0 && high <= 65504.0 && (scale & 0x7c00u) != 0x7c00u;
  let step = unpack2x16float(scale).x;
  var word = 0u;
  for (var i = 0u; i < GROUP; i++) {
    var code = 0.0;
    if (good && step > 0.0) { code = round(clamp((turning[first + i] - start) / step, 0.0, 255.0)); }
    word = word | (u32(code) << (8u * (i % 4u)));
    if (i % 4u == 3u) {
      let w = (first + i) / 4u;
      cache[base + select(w * 64u + place, key_words(8u) + place * (DIM / 4u) + w, values)] = word;
      word = 0u;
    }
  }
  let to = base + 16u * DIM + select(t * 64u + place, key_words(8u) + place * (DIM / GROUP) + t, values);
  cache[to] = select(NOT_A_NUMBER, scale | (least << 16u), good);
}
