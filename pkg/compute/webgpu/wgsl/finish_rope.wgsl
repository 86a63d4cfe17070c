// The end of the products with q, k and v, whose weights are rows of one store: as rope.
// Slots 2i and 2i + 1 are the dimensions of a pair. What a thread needs besides the sums is
// read before them.
@group(0) @binding(8) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(9) var<storage, read_write> cache: array<f32>;

var<private> page_base: u32;  // of the row's page in the cache
var<private> page_place: u32; // position in it
var<private> angle: vec2<f32>;

fn begin(first: u32, token: u32, thread: u32) {
  let slot = first + 2u * thread;
  let at_row = position(token);
  page_base = page(token, at_row / 64u) * 2u * (p.end1 - p.end0) * 64u;
  page_place = at_row % 64u;
  let i = slot % DIM / 2u;
  if (slot < p.end1 && i < p.pairs) { angle = angles[at_row * p.pairs + i]; }
}

fn row_of(slot: u32) -> u32 {
  let s = min(slot, p.rows - 1u);
  if (s >= p.end1) { return p.first + s; }
  let d = pair(s % DIM / 2u);
  return p.first + s / DIM * DIM + select(d.x, d.y, (s & 1u) == 1u);
}

// finish has a thread for each two slots.
fn finish(first: u32, token: u32, thread: u32, factor: f32) {
  let slot = first + 2u * thread;
  if (2u * thread >= SLOTS || slot >= p.rows) { return; }
  var v = vec2<f32>(total(2u * thread) * factor, total(2u * thread + 1u) * factor);
  if (slot >= p.end1) {
    let out = slot - p.end1;
    y2[at(p.y2, token, out)] = v.x;
    y2[at(p.y2, token, out + 1u)] = v.y;
    if (APART) { return; }
    let to = page_base + (p.end1 - p.end0) * 64u + (out / DIM * 64u + page_place) * DIM + out % DIM;
    cache[to] = v.x;
    cache[to + 1u] = v.y;
    return;
  }
  let i = slot % DIM / 2u;
  let d = pair(i);
  if (i < p.pairs) { v = rotate(v.x, v.y, angle); }
  if (slot < p.end0) {
    let base = slot / DIM * DIM;
    y0[at(p.y0, token, base + d.x)] = v.x;
    y0[at(p.y0, token, base + d.y)] = v.y;
    return;
  }
  let head = (slot - p.end0) / DIM * DIM;
  y1[at(p.y1, token, head + d.x)] = v.x;
  y1[at(p.y1, token, head + d.y)] = v.y;
  if (APART) { return; }
  cache[page_base + head * 64u + d.x / 4u * 256u + page_place * 4u + d.x % 4u] = v.x;
  cache[page_base + head * 64u + d.y / 4u * 256u + page_place * 4u + d.y % 4u] = v.y;
}
