// Reads Q4_0 for a GPU.
struct Packed { a: vec4<u32>, b: vec4<u32>, d: vec2<f32> }

fn fetch(row: u32, segment: u32) -> Packed {
  let d = word(row, 0u, segment);
  return Packed(vector(row, 0u, segment), vector(row, 1u, segment), vec2<f32>(half(d & 0xffffu), half(d >> 16u)));
}

// A nibble n at bit 16 or 12 of a float with the exponent of 128 or 2048 is 128 + n or
// 2048 + n. Times d, minus (128 + 8)·d or (2048 + 8)·d: every product is exact.
fn unpack(q: Packed, h: u32, w: u32) -> Eight {
  let v = pick(select(q.a, q.b, vec4<bool>(h == 1u)), w);
  let d = select(q.d.x, q.d.y, h == 1u);
  let near = -136.0 * d;
  let far = -2056.0 * d;
  let low = v << 8u;
  let high = v >> 12u;
  let a = vec4<u32>(((v << 16u) & 0xf0000u) | 0x43000000u, (low & 0xf000u) | 0x45000000u, (low & 0xf0000u) | 0x43000000u, (v & 0xf000u) | 0x45000000u);
  let b = vec4<u32>((v & 0xf0000u) | 0x43000000u, ((v >> 4u) & 0xf0000u) | 0x43000000u, (high & 0xf000u) | 0x45000000u, (high & 0xf0000u) | 0x43000000u);
  return Eight(fma(bitcast<vec4<f32>>(a), vec4<f32>(d), vec4<f32>(near, far, near, far)), fma(bitcast<vec4<f32>>(b), vec4<f32>(d), vec4<f32>(near, near, far, near)));
}
