// Reads F32 for a GPU.
struct Packed { row: u32, segment: u32 }

fn fetch(row: u32, segment: u32) -> Packed { return Packed(row, segment); }

fn unpack(q: Packed, i: u32) -> vec4<f32> { return bitcast<vec4<f32>>(vector(q.row, i, q.segment)); }
