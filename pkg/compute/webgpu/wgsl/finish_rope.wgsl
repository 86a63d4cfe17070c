// The end of the products with q, k and v, whose weights are rows of one store: as rope.
// Slots 2i and 2i + 1 are the dimensions of a pair.
@group(0) @binding(8) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(9) var<storage, read_write> cache: array<f32>;

fn row_of(slot: u32) -> u32 {
  let s = min(slot, p.rows - 1u);
  if (s >= p.end1) { return p.first + s; }
  let d = pair(s % p.dim / 2u);
  return p.first + s / p.dim * p.dim + select(d.x, d.y, (s & 1u) == 1u);
}

fn finish(first: u32, token: u32, thread: u32, factor: f32) {
  let heads = (p.end1 - p.end0) / p.dim;
  for (var s = 2u * thread; s < SLOTS; s += 2u * THREADS) {
    let slot = first + s;
    if (slot >= p.rows) { return; }
    var v = vec2<f32>(total(s) * factor, total(s + 1u) * factor);
    if (slot >= p.end1) {
      let out = slot - p.end1;
      y2[at(p.y2, token, out)] = v.x;
      y2[at(p.y2, token, out + 1u)] = v.y;
      let to = value_at(token, heads, out / p.dim, out % p.dim);
      cache[to] = v.x;
      cache[to + 1u] = v.y;
    } else {
      let i = slot % p.dim / 2u;
      let d = pair(i);
      if (i < p.pairs) { v = rotate(v.x, v.y, angles[position(token) * p.pairs + i]); }
      if (slot < p.end0) {
        let base = slot / p.dim * p.dim;
        y0[at(p.y0, token, base + d.x)] = v.x;
        y0[at(p.y0, token, base + d.y)] = v.y;
      } else {
        let head = (slot - p.end0) / p.dim;
        y1[at(p.y1, token, head * p.dim + d.x)] = v.x;
        y1[at(p.y1, token, head * p.dim + d.y)] = v.y;
        cache[key_at(token, heads, head, d.x)] = v.x;
        cache[key_at(token, heads, head, d.y)] = v.y;
      }
    }
  }
}
