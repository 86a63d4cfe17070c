// Reads IQ4_XS for a GPU.
// level is one of the 16 fixed levels of IQ4, 4 signed bytes in a word.
fn level(code: u32) -> f32 {
  let low = select(0xbfad9881u, 0xf6eaddcfu, (code & 4u) != 0u);
  let high = select(0x26190d01u, 0x71594535u, (code & 4u) != 0u);
  return signed_byte(select(low, high, code >= 8u), code & 3u);
}

struct Packed { a: vec4<u32>, b: vec4<u32>, scales: u32, d: u32 }

fn fetch(row: u32, segment: u32) -> Packed {
  return Packed(vector(row, 0u, segment), vector(row, 1u, segment), word(row, 0u, segment), block_word(row, segment));
}

fn columns(q: Packed, i: u32) -> vec4<f32> {
  let v = pick(select(q.a, q.b, vec4<bool>(i >= 8u)), (i / 2u) & 3u) >> (16u * (i & 1u));
  let scale = half(q.d & 0xffffu) * signed_byte(q.scales, i / 8u);
  return vec4<f32>(level(v & 15u), level((v >> 4u) & 15u), level((v >> 8u) & 15u), level((v >> 12u) & 15u)) * scale;
}

fn unpack(q: Packed, h: u32, w: u32) -> Eight {
  let i = 8u * h + 2u * w;
  return Eight(columns(q, i), columns(q, i + 1u));
}
