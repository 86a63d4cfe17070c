// Keys and values of a packed class: each row sees a page in the form that the pages between
// them say.
@group(0) @binding(2) var<storage, read> cache: array<u32>;

const RECENT_FORM = 1u;
const UPPER_FORM = 2u;

// Form is a page as a row sees it.
struct Form { kind: u32, at: u32 }

var<private> mine: Form; // of the thread's key
var<private> place_in: u32; // its position in the page
var<private> group: u32; // the group of keys of the split that it is in

var<workgroup> scaled: array<vec4<f32>, SCALED>; // [KEY_GROUPS][QUADS]
var<workgroup> lows: array<f32, SCALED>;         // the same
var<workgroup> low_sums: array<f32, KEY_GROUPS>;

fn form_of(row: u32, kv: u32, index: u32) -> Form {
  if (STEPS) {
    let back = position(row) / 64u - index;
    if (index == 0u || back <= RECENT) { return Form(RECENT_FORM, head_at(p.recent, 16u, recent_page(row, index), p.kv_heads, kv)); }
    if (UPPER != 0u && back <= FAR) { return Form(UPPER_FORM, head_at(p.upper, UPPER, upper_page(row, index), p.kv_heads, kv)); }
  }
  return Form(0u, head_at(0u, BITS, page(row, index), p.kv_heads, kv));
}

fn place(row: u32, kv: u32, key: u32, seen: bool) {
  place_in = key % 64u;
  group = key % 256u / KEY_GROUP;
  if (seen) { mine = form_of(row, kv, key / 64u); }
}

// quad is dimensions d to d + 3 of a position as they are stored; the words of its 32
// dimensions begin at start, stride apart.
fn quad(bits: u32, start: u32, stride: u32, d: u32) -> vec4<f32> {
  let i = d % 32u;
  if (bits == 16u) {
    let a = unpack2x16float(cache[start + i / 2u * stride]);
    let b = unpack2x16float(cache[start + (i / 2u + 1u) * stride]);
    return vec4<f32>(a, b);
  }
  if (bits == 8u) {
    let w = cache[start + i / 4u * stride];
    return vec4<f32>(vec4<u32>(w, w >> 8u, w >> 16u, w >> 24u) & vec4<u32>(255u));
  }
  if (bits == 4u) {
    let w = cache[start + i / 8u * stride] >> (4u * (i % 8u));
    return vec4<f32>(vec4<u32>(w, w >> 4u, w >> 8u, w >> 12u) & vec4<u32>(15u));
  }
  let w = cache[start + i / 16u * stride] >> (2u * (i % 16u));
  var code = vec4<u32>(w, w >> 2u, w >> 4u, w >> 6u) & vec4<u32>(3u);
  if (bits == 3u) {
    let h = cache[start + 2u * stride] >> i;
    code = code | ((vec4<u32>(h, h >> 1u, h >> 2u, h >> 3u) & vec4<u32>(1u)) << vec4<u32>(2u));
  }
  return vec4<f32>(code);
}

// value is dimensions d to d + 3 of the value at a position.
fn value(bits: u32, base: u32, place: u32, d: u32) -> vec4<f32> {
  let values = base + key_words(bits);
  let v = quad(bits, values + place * (DIM * bits / 32u) + d / 32u * bits, 1u, d);
  if (bits == 16u) { return v; }
  let s = unpack2x16float(cache[values + 2u * DIM * bits + place * (DIM / GROUP) + d / GROUP]);
  return fma(v, vec4<f32>(s.x), vec4<f32>(s.y));
}

// key is dimensions d to d + 3 of the thread's key as they are stored.
fn key(bits: u32, d: u32) -> vec4<f32> { return quad(bits, mine.at + d / 32u * bits * 64u + place_in, 64u, d); }

// turned_product is a key of 8 bits times the query.
fn turned_product() -> f32 {
  var s = 0.0;
  for (var g = 0u; g < DIM / GROUP; g++) {
    var codes = 0.0;
    var sum = 0.0;
    for (var d = g * GROUP; d < (g + 1u) * GROUP; d += 4u) {
      codes = dot4(query[d / 4u], key(8u, d), codes);
      sum = dot4(query[d / 4u], vec4<f32>(1.0), sum);
    }
    let scale = unpack2x16float(cache[mine.at + 16u * DIM + g * 64u + place_in]);
    s = fma(scale.x, codes, fma(scale.y, sum, s));
  }
  return s;
}

fn dot_key(bits: u32) -> f32 {
  if (!STEPS) {
    var s = 0.0;
    for (var d = 0u; d < QUADS; d++) { s = dot4(query[d], key(bits, 4u * d), s); }
    return s;
  }
  var s = low_sums[group];
  for (var d = 0u; d < QUADS; d++) { s = dot4(scaled[group * QUADS + d], key(bits, 4u * d), s); }
  return s;
}

// product is the thread's key times the query.
fn product() -> f32 {
  if (BITS == 8u) { return turned_product(); }
  if (STEPS && mine.kind == RECENT_FORM) { return dot_key(16u); }
  if (UPPER != 0u && mine.kind == UPPER_FORM) { return dot_key(UPPER); }
  return dot_key(BITS);
}

// scale_query makes the query times the scales of each group of keys of the split, and times
// their least values: a key's codes are then multiplied as they are.
fn scale_query(t: u32, row: u32, kv: u32, split: u32, last: u32) {
  for (var i = t; i < KEY_GROUPS * QUADS; i += 256u) {
    let first = split * 256u + i / QUADS * KEY_GROUP;
    let d = i % QUADS;
    var scale = vec4<f32>(1.0);
    var least = vec4<f32>(0.0);
    if (first <= last) {
      let form = form_of(row, kv, first / 64u);
      if (form.kind != RECENT_FORM) {
        let bits = select(BITS, UPPER, form.kind == UPPER_FORM);
        let at = form.at + 2u * DIM * bits + 4u * d * (64u / KEY_GROUP) + first % 64u / KEY_GROUP;
        let s0 = unpack2x16float(cache[at]);
        let s1 = unpack2x16float(cache[at + 64u / KEY_GROUP]);
        let s2 = unpack2x16float(cache[at + 2u * (64u / KEY_GROUP)]);
        let s3 = unpack2x16float(cache[at + 3u * (64u / KEY_GROUP)]);
        scale = vec4<f32>(s0.x, s1.x, s2.x, s3.x);
        least = vec4<f32>(s0.y, s1.y, s2.y, s3.y);
      }
    }
    scaled[i] = query[d] * scale;
    lows[i] = dot4(query[d], least, 0.0);
  }
  workgroupBarrier();
  if (t < KEY_GROUPS) {
    var s = 0.0;
    for (var d = 0u; d < QUADS; d++) { s = s + lows[t * QUADS + d]; }
    low_sums[t] = s;
  }
  workgroupBarrier();
}

fn mix_of(bits: u32, first: u32, count: u32, base: u32, place: u32, d: u32) -> vec4<f32> {
  var s = vec4<f32>(0.0);
  for (var k = 0u; k < count; k++) { s = fma(vec4<f32>(weight[first + k]), value(bits, base, place + k, d), s); }
  return s;
}

// mixed adds 16 values of 4 dimensions from a key on, which is key first of the split, count
// of them seen, times their weights.
fn mixed(row: u32, kv: u32, first: u32, count: u32, key: u32, quad: u32) -> vec4<f32> {
  let form = form_of(row, kv, key / 64u);
  if (STEPS && form.kind == RECENT_FORM) { return mix_of(16u, first, count, form.at, key % 64u, 4u * quad); }
  if (UPPER != 0u && form.kind == UPPER_FORM) { return mix_of(UPPER, first, count, form.at, key % 64u, 4u * quad); }
  return mix_of(BITS, first, count, form.at, key % 64u, 4u * quad);
}

// prepare turns the query as keys of 8 bits are, or multiplies it with scales.
fn prepare(t: u32, row: u32, kv: u32, split: u32, last: u32) {
  if (STEPS) { scale_query(t, row, kv, split, last); }
  if (BITS == 8u) {
    if (t < DIM) { turning[t] = query[t / 4u][t & 3u]; }
    turn(t, 256u);
    if (t < DIM) { query[t / 4u][t & 3u] = turning[t]; }
    workgroupBarrier();
  }
}

// finished turns a sum of values of 8 bits back.
fn finished(t: u32, o: f32) -> f32 {
  if (BITS == 8u) {
    if (t < DIM) { turning[t] = o; }
    turn(t, 256u);
    if (t < DIM) { return turning[t]; }
  }
  return o;
}
