// Reads Q3_K for a GPU.
struct Packed { a: vec4<u32>, scales: u32, high: vec2<u32>, d: u32 }

fn fetch(row: u32, segment: u32) -> Packed {
  return Packed(vector(row, 0u, segment), word(row, 0u, segment), vec2<u32>(word(row, 1u, segment), word(row, 2u, segment)), block_word(row, segment));
}

fn columns(q: Packed, i: u32) -> vec4<f32> {
  let scale = half(q.d & 0xffffu) * signed_byte(q.scales, i / 4u);
  let high = bits(select(q.high.x, q.high.y, i >= 8u), i);
  return (vec4<f32>(pairs(pick(q.a, i / 4u), i) + high * 4u) - 4.0) * scale;
}

fn unpack(q: Packed, h: u32, w: u32) -> Eight {
  let i = 8u * h + 2u * w;
  return Eight(columns(q, i), columns(q, i + 1u));
}
