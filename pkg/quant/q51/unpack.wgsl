// Reads Q5_1 for a GPU.
struct Packed { a: vec4<u32>, b: vec4<u32>, d: vec2<u32>, high: vec2<u32> }

fn fetch(row: u32, segment: u32) -> Packed {
  return Packed(vector(row, 0u, segment), vector(row, 1u, segment),
    vec2<u32>(word(row, 0u, segment), word(row, 1u, segment)), vec2<u32>(word(row, 2u, segment), word(row, 3u, segment)));
}

fn unpack(q: Packed, i: u32) -> vec4<f32> {
  let scale = select(q.d.x, q.d.y, i >= 8u);
  let high = vec4<f32>(bits(select(q.high.x, q.high.y, i >= 8u), i)) * 16.0;
  return fma(nibbles(pick(q.a, q.b, i / 2u), i) + high, vec4<f32>(half(scale & 0xffffu)), vec4<f32>(half(scale >> 16u)));
}
