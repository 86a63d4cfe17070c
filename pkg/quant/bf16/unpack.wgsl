// Reads BF16 for a GPU.
struct Packed { row: u32, segment: u32 }

fn fetch(row: u32, segment: u32) -> Packed { return Packed(row, segment); }

fn columns(q: Packed, i: u32) -> vec4<f32> {
  let v = vector(q.row, i / 2u, q.segment);
  let two = select(v.xy, v.zw, vec2<bool>((i & 1u) == 1u));
  return bitcast<vec4<f32>>(vec4<u32>(two.x << 16u, two.x & 0xffff0000u, two.y << 16u, two.y & 0xffff0000u));
}

fn unpack(q: Packed, h: u32, w: u32) -> Eight {
  let i = 8u * h + 2u * w;
  return Eight(columns(q, i), columns(q, i + 1u));
}
