// Reads F32 for a GPU.
struct Packed { row: u32, segment: u32 }

fn fetch(row: u32, segment: u32) -> Packed { return Packed(row, segment); }

fn columns(q: Packed, i: u32) -> vec4<f32> { return bitcast<vec4<f32>>(vector(q.row, i, q.segment)); }

fn unpack(q: Packed, h: u32, w: u32) -> Eight {
  let i = 8u * h + 2u * w;
  return Eight(columns(q, i), columns(q, i + 1u));
}
