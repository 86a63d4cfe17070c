// Reads Q6_K for a GPU.
struct Packed { a: vec4<u32>, b: vec4<u32>, high: vec4<u32>, scales: u32, d: u32 }

fn fetch(row: u32, segment: u32) -> Packed {
  return Packed(vector(row, 0u, segment), vector(row, 1u, segment), vector(row, 2u, segment), word(row, 0u, segment), block_word(row, segment));
}

fn unpack(q: Packed, i: u32) -> vec4<f32> {
  let scale = half(q.d & 0xffffu) * signed_byte(q.scales, i / 4u);
  let high = vec4<f32>(pairs(q.high[i / 4u], i)) * 16.0;
  return (nibbles(pick(q.a, q.b, i / 2u), i) + high - 32.0) * scale;
}
