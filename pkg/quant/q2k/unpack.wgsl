// Reads Q2_K for a GPU.
struct Packed { a: vec4<u32>, scales: u32, d: u32 }

fn fetch(row: u32, segment: u32) -> Packed {
  return Packed(vector(row, 0u, segment), word(row, 0u, segment), block_word(row, segment));
}

fn columns(q: Packed, i: u32) -> vec4<f32> {
  let code = byte(q.scales, i / 4u);
  let scale = half(q.d & 0xffffu) * f32(code & 15u);
  let minimum = half(q.d >> 16u) * f32(code >> 4u);
  return fma(vec4<f32>(pairs(pick(q.a, i / 4u), i)), vec4<f32>(scale), vec4<f32>(-minimum));
}

fn unpack(q: Packed, h: u32, w: u32) -> Eight {
  let i = 8u * h + 2u * w;
  return Eight(columns(q, i), columns(q, i + 1u));
}
