// The end of a tile: 4 slots from slot on, and 4 from slot + 64 on.
fn row_of(slot: u32) -> u32 { return p.first + min(slot, p.rows - 1u); }

fn finish(token: u32, slot: u32, a: vec4<f32>, b: vec4<f32>) {
  if (token >= count()) { return; }
  var factor = 1.0;
  if (NORM) { factor = factors[token]; }
  let v = a * factor;
  let w = b * factor;
  if (slot < p.rows) { store(token, slot, v.x); }
  if (slot + 1u < p.rows) { store(token, slot + 1u, v.y); }
  if (slot + 2u < p.rows) { store(token, slot + 2u, v.z); }
  if (slot + 3u < p.rows) { store(token, slot + 3u, v.w); }
  if (slot + 64u < p.rows) { store(token, slot + 64u, w.x); }
  if (slot + 65u < p.rows) { store(token, slot + 65u, w.y); }
  if (slot + 66u < p.rows) { store(token, slot + 66u, w.z); }
  if (slot + 67u < p.rows) { store(token, slot + 67u, w.w); }
}
