// The end of a gated tile: see finish_gate.
fn row_of(slot: u32) -> u32 { return p.first + min(slot / 2u, p.rows / 2u - 1u) + (slot & 1u) * (p.rows / 2u); }

fn gated(token: u32, slot: u32, gate: f32, up: f32) {
  if (slot < p.rows) { y0[at(p.y0, token, slot / 2u)] = activation(ACT, gate) * up; }
}

fn finish(token: u32, slot: u32, a: vec4<f32>, b: vec4<f32>) {
  if (token >= count()) { return; }
  let factor = factors[token];
  let v = a * factor;
  let w = b * factor;
  gated(token, slot, v.x, v.y);
  gated(token, slot + 2u, v.z, v.w);
  gated(token, slot + 64u, w.x, w.y);
  gated(token, slot + 66u, w.z, w.w);
}
