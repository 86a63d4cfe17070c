// Reads F16 for a GPU.
struct Packed { row: u32, segment: u32 }

fn fetch(row: u32, segment: u32) -> Packed { return Packed(row, segment); }

fn columns(q: Packed, i: u32) -> vec4<f32> {
  let v = vector(q.row, i / 2u, q.segment);
  let two = select(v.xy, v.zw, vec2<bool>((i & 1u) == 1u));
  return vec4<f32>(half(two.x & 0xffffu), half(two.x >> 16u), half(two.y & 0xffffu), half(two.y >> 16u));
}

fn unpack(q: Packed, h: u32, w: u32) -> Eight {
  let i = 8u * h + 2u * w;
  return Eight(columns(q, i), columns(q, i + 1u));
}
