fn rotate(a: f32, b: f32, angle: vec2<f32>) -> vec2<f32> {
  return vec2<f32>(fma(a, angle.x, -(b * angle.y)), fma(b, angle.x, a * angle.y));
}

// The dimensions of pair i of a head; behind the turned pairs they are copied.
fn pair(i: u32) -> vec2<u32> {
  if (i >= p.pairs || p.neox == 0u) { return vec2<u32>(2u * i, 2u * i + 1u); }
  return vec2<u32>(i, i + p.pairs);
}

// A page is [head][dimension / 4][64 positions][4] of keys, then [head][64 positions][dimension]
// of values.
fn key_at(row: u32, heads: u32, head: u32, dim: u32) -> u32 {
  let at_row = position(row);
  return (page(row, at_row / 64u) * 2u * heads + head) * p.dim * 64u + dim / 4u * 256u + at_row % 64u * 4u + dim % 4u;
}

fn value_at(row: u32, heads: u32, head: u32, dim: u32) -> u32 {
  let at_row = position(row);
  return (page(row, at_row / 64u) * 2u * heads + heads + head) * p.dim * 64u + (at_row % 64u) * p.dim + dim;
}
