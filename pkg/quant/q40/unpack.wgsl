// Reads Q4_0 for a GPU.
struct Packed { a: vec4<u32>, b: vec4<u32>, d: vec2<f32> }

fn fetch(row: u32, segment: u32) -> Packed {
  let d = word(row, 0u, segment);
  return Packed(vector(row, 0u, segment), vector(row, 1u, segment), vec2<f32>(half(d & 0xffffu), half(d >> 16u)));
}

// A nibble n at bit 16 or 12 of a float with the exponent of 128 or 2048 is 128 + n or
// 2048 + n. Times d, minus (128 + 8)·d or (2048 + 8)·d: every product is exact.
fn unpack(q: Packed, i: u32) -> vec4<f32> {
  let v = pick(q.a, q.b, i / 2u);
  let d = select(q.d.x, q.d.y, i >= 8u);
  let c = vec2<f32>(-136.0 * d, -2056.0 * d);
  var at = vec4<u32>(((v << 16u) & 0xf0000u) | 0x43000000u, ((v << 8u) & 0xf000u) | 0x45000000u, ((v << 8u) & 0xf0000u) | 0x43000000u, (v & 0xf000u) | 0x45000000u);
  var off = vec4<f32>(c.x, c.y, c.x, c.y);
  if ((i & 1u) == 1u) {
    at = vec4<u32>((v & 0xf0000u) | 0x43000000u, ((v >> 4u) & 0xf0000u) | 0x43000000u, ((v >> 12u) & 0xf000u) | 0x45000000u, ((v >> 12u) & 0xf0000u) | 0x43000000u);
    off = vec4<f32>(c.x, c.x, c.y, c.x);
  }
  return fma(bitcast<vec4<f32>>(at), vec4<f32>(d), off);
}
