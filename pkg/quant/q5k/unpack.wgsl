// Reads Q5_K for a GPU.
struct Packed { a: vec4<u32>, b: vec4<u32>, scales: u32, high: vec2<u32>, d: u32 }

fn fetch(row: u32, segment: u32) -> Packed {
  return Packed(vector(row, 0u, segment), vector(row, 1u, segment), word(row, 0u, segment),
    vec2<u32>(word(row, 1u, segment), word(row, 2u, segment)), block_word(row, segment));
}

fn columns(q: Packed, i: u32) -> vec4<f32> {
  let scale = half(q.d & 0xffffu) * f32(byte(q.scales, i / 8u));
  let minimum = half(q.d >> 16u) * f32(byte(q.scales, 2u + i / 8u));
  let high = vec4<f32>(bits(select(q.high.x, q.high.y, i >= 8u), i)) * 16.0;
  return fma(nibbles(pick(select(q.a, q.b, vec4<bool>(i >= 8u)), (i / 2u) & 3u), i) + high, vec4<f32>(scale), vec4<f32>(-minimum));
}

fn unpack(q: Packed, h: u32, w: u32) -> Eight {
  let i = 8u * h + 2u * w;
  return Eight(columns(q, i), columns(q, i + 1u));
}
