// Lower: makes the codes of a page from its halves when its last position is written. The list
// has for each page its places in the pool of halves, in that of the codes between, and in the
// oldest. A workgroup takes 32 dimensions of a head's keys, or a group's of its values. The range
// of a group is cut into cells and scale and least value are those of the smallest squared error
// for these codes.
struct Params { kv_heads: u32, recent: u32, upper: u32, list: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> cache: array<u32>;

var<workgroup> codes: array<u32, 2048>; // of keys: [64 positions][32 dimensions]
var<private> source: u32;               // where the head's halves begin
var<private> words: array<u32, 4>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let t = local.x;
  let head = wg.x / (DIM / 32u);
  let block = wg.x % (DIM / 32u);
  source = head_at(p.recent, 16u, item(p.list, 3u * wg.y), p.kv_heads, head);
  let oldest = head_at(0u, BITS, item(p.list, 3u * wg.y + 2u), p.kv_heads, head);
  if (wg.z == 1u) {
    if (block * 32u % GROUP != 0u) { return; }
    values(BITS, oldest, t, block);
    if (UPPER != 0u) { values(UPPER, head_at(p.upper, UPPER, item(p.list, 3u * wg.y + 1u), p.kv_heads, head), t, block); }
    return;
  }
  keys(BITS, oldest, t, block);
  if (UPPER != 0u) { keys(UPPER, head_at(p.upper, UPPER, item(p.list, 3u * wg.y + 1u), p.kv_heads, head), t, block); }
}

// key and value are halves of the page.
fn key(place: u32, d: u32) -> f32 {
  let pair = unpack2x16float(cache[source + d / 2u * 64u + place]);
  return select(pair.x, pair.y, (d & 1u) == 1u);
}
fn value(place: u32, d: u32) -> f32 {
  let pair = unpack2x16float(cache[source + 32u * DIM + place * (DIM / 2u) + d / 2u]);
  return select(pair.x, pair.y, (d & 1u) == 1u);
}

// element is value i of the group that begins at a position and a dimension.
fn element(of_values: bool, place: u32, d: u32, i: u32) -> f32 {
  if (of_values) { return value(place, d + i); }
  return key(place + i, d);
}

// level is the code from 0 to most whose value is nearest to x.
fn level(x: f32, scale: f32, least: f32, most: f32) -> u32 {
  if (scale <= 0.0) { return 0u; }
  return u32(clamp(round((x - least) * (1.0 / scale)), 0.0, most));
}

// fit returns the scale and the least value of a group, as a word.
fn fit(bits: u32, of_values: bool, place: u32, d: u32, count: u32) -> u32 {
  let most = f32((1u << bits) - 1u);
  var low = element(of_values, place, d, 0u);
  var high = low;
  for (var i = 0u; i < count; i++) {
    let x = element(of_values, place, d, i);
    if (!finite(x)) { return NOT_A_NUMBER; }
    low = min(low, x);
    high = max(high, x);
  }
  let width = (high - low) / (most + 0.75);
  let least = fma(width, 0.375, low);
  var sum = 0u;
  var squares = 0u;
  var total = 0.0;
  var products = 0.0;
  for (var i = 0u; i < count; i++) {
    let x = element(of_values, place, d, i);
    let code = level(x, width, least, most);
    sum += code;
    squares += code * code;
    total = total + (x - least);
    products = fma(x - least, f32(code), products);
  }
  let determinant = count * squares - sum * sum;
  if (determinant == 0u) { return halves(width, least); }
  let inverse = 1.0 / f32(determinant);
  let a = f32(count) * products;
  let b = f32(sum) * total;
  let scale = (a - b) * inverse;
  if (scale <= 0.0) { return halves(width, least); }
  let e = f32(squares) * total;
  let f = f32(sum) * products;
  return halves(scale, least + (e - f) * inverse);
}

// put sets code i of 32 in words.
fn put(bits: u32, i: u32, code: u32) {
  if (bits == 4u) {
    words[i / 8u] = words[i / 8u] | (code << (4u * (i % 8u)));
    return;
  }
  words[i / 16u] = words[i / 16u] | ((code & 3u) << (2u * (i % 16u)));
  if (bits == 3u) { words[2] = words[2] | ((code >> 2u) << i); }
}

fn keys(bits: u32, base: u32, t: u32, block: u32) {
  let d = block * 32u + t % 32u;
  let first = t / 32u * KEY_GROUP;
  if (first < 64u) {
    let fitted = fit(bits, false, first, d, KEY_GROUP);
    let line = unpack2x16float(fitted);
    for (var i = 0u; i < KEY_GROUP; i++) {
      var code = 0u;
      if (fitted != NOT_A_NUMBER) { code = level(key(first + i, d), line.x, line.y, f32((1u << bits) - 1u)); }
      codes[(first + i) * 32u + t % 32u] = code;
    }
    cache[base + 2u * DIM * bits + d * (64u / KEY_GROUP) + first / KEY_GROUP] = fitted;
  }
  workgroupBarrier();
  words = array<u32, 4>(0u, 0u, 0u, 0u);
  for (var i = 0u; i < 32u; i++) { put(bits, i, codes[t * 32u + i]); }
  for (var w = 0u; w < bits; w++) { cache[base + (block * bits + w) * 64u + t] = words[w]; }
  workgroupBarrier();
}

fn values(bits: u32, base: u32, t: u32, block: u32) {
  let to = base + key_words(bits);
  let first = block * 32u;
  let fitted = fit(bits, true, t, first, GROUP);
  let line = unpack2x16float(fitted);
  for (var from_column = 0u; from_column < GROUP; from_column += 32u) {
    words = array<u32, 4>(0u, 0u, 0u, 0u);
    for (var i = 0u; i < 32u; i++) {
      var code = 0u;
      if (fitted != NOT_A_NUMBER) { code = level(value(t, first + from_column + i), line.x, line.y, f32((1u << bits) - 1u)); }
      put(bits, i, code);
    }
    for (var w = 0u; w < bits; w++) { cache[to + t * (DIM * bits / 32u) + (first + from_column) / 32u * bits + w] = words[w]; }
  }
  cache[to + 2u * DIM * bits + t * (DIM / GROUP) + first / GROUP] = fitted;
}
