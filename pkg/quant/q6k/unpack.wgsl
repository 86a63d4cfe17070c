// Reads Q6_K for a GPU.
struct Packed { a: vec4<u32>, b: vec4<u32>, high: vec4<u32>, scales: u32, d: u32 }

fn fetch(row: u32, segment: u32) -> Packed {
  return Packed(vector(row, 0u, segment), vector(row, 1u, segment), vector(row, 2u, segment), word(row, 0u, segment), block_word(row, segment));
}

fn columns(q: Packed, i: u32) -> vec4<f32> {
  let scale = half(q.d & 0xffffu) * signed_byte(q.scales, i / 4u);
  let high = vec4<f32>(pairs(pick(q.high, i / 4u), i)) * 16.0;
  return (nibbles(pick(select(q.a, q.b, vec4<bool>(i >= 8u)), (i / 2u) & 3u), i) + high - 32.0) * scale;
}

fn unpack(q: Packed, h: u32, w: u32) -> Eight {
  let i = 8u * h + 2u * w;
  return Eight(columns(q, i), columns(q, i + 1u));
}
