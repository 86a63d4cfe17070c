// half_bits is the nearest half of v, of two the even one: hardware rounds as it likes.
fn half_bits(v: f32) -> u32 {
  let b = bitcast<u32>(v);
  let sign = (b >> 16u) & 0x8000u;
  let a = b & 0x7fffffffu;
  if (a >= 0x7f800000u) { return sign | select(0x7c00u, 0x7e00u, a > 0x7f800000u); }
  if (a >= 0x477ff000u) { return sign | 0x7c00u; }
  if (a >= 0x38800000u) { return sign | ((a + 0xfffu + ((a >> 13u) & 1u) - 0x38000000u) >> 13u); }
  if (a < 0x33000000u) { return sign; }
  let shift = 126u - (a >> 23u);
  let m = (a & 0x7fffffu) | 0x800000u;
  let down = m >> shift;
  let rest = m & ((1u << shift) - 1u);
  let middle = 1u << (shift - 1u);
  return sign | (down + select(0u, 1u, rest > middle || (rest == middle && (down & 1u) == 1u)));
}

fn halves(a: f32, b: f32) -> u32 { return half_bits(a) | (half_bits(b) << 16u); }

// NOT_A_NUMBER is a scale of nothing with a least value that is no number: what halves do
// not hold never becomes a clean value.
const NOT_A_NUMBER = 0x7e000000u;
