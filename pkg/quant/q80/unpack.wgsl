// Reads Q8_0 for a GPU.
struct Packed { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, e: vec4<u32>, d: u32 }

fn fetch(row: u32, segment: u32) -> Packed {
  return Packed(vector(row, 0u, segment), vector(row, 1u, segment), vector(row, 2u, segment), vector(row, 3u, segment), word(row, 0u, segment));
}

fn columns(q: Packed, i: u32) -> vec4<f32> {
  let first = select(q.a, q.c, vec4<bool>(i >= 8u));
  let second = select(q.b, q.e, vec4<bool>(i >= 8u));
  let v = pick(select(first, second, vec4<bool>((i & 4u) != 0u)), i & 3u);
  let d = half((q.d >> (16u * (i / 8u))) & 0xffffu);
  return vec4<f32>(signed_byte(v, 0u), signed_byte(v, 1u), signed_byte(v, 2u), signed_byte(v, 3u)) * d;
}

fn unpack(q: Packed, h: u32, w: u32) -> Eight {
  let i = 8u * h + 2u * w;
  return Eight(columns(q, i), columns(q, i + 1u));
}
