// Weights of one format: a plane of 16-byte vectors and a plane of words, both
// [row][item][segment of 64 columns], then one word for each 256 columns.
@group(0) @binding(1) var<storage, read> vectors: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> words: array<u32>;

fn vector(row: u32, i: u32, segment: u32) -> vec4<u32> { return vectors[(row * VECTORS + i) * SEGMENTS + segment]; }
fn word(row: u32, i: u32, segment: u32) -> u32 { return words[(row * WORDS + i) * SEGMENTS + segment]; }
fn block_word(row: u32, segment: u32) -> u32 { return words[p.supers + row * (SEGMENTS / 4u) + segment / 4u]; }

// half decodes binary16 by hand: hardware may flush its subnormals.
fn half(h: u32) -> f32 {
  let sign = (h & 0x8000u) << 16u;
  let rest = h & 0x7fffu;
  let normal = bitcast<f32>((rest << 13u) + 0x38000000u);
  let subnormal = bitcast<f32>((rest << 13u) + 0x38800000u) - 6.103515625e-5;
  let infinite = bitcast<f32>((rest << 13u) + 0x70000000u);
  let magnitude = select(select(normal, subnormal, rest < 0x400u), infinite, rest >= 0x7c00u);
  return bitcast<f32>(bitcast<u32>(magnitude) | sign);
}

// nibbles are values 4i to 4i+3 of 8 in a word, as floats: each is set in the
// fraction of a power of two, which is then taken away.
fn nibbles(word: u32, i: u32) -> vec4<f32> {
  let v = word >> (16u * (i & 1u));
  return vec4<f32>(
    bitcast<f32>((v & 0xfu) | 0x4b000000u) - 8388608.0,
    bitcast<f32>((v & 0xf0u) | 0x49000000u) - 524288.0,
    bitcast<f32>((v & 0xf00u) | 0x47000000u) - 32768.0,
    bitcast<f32>((v & 0xf000u) | 0x45000000u) - 2048.0);
}

// pairs are 4 values of 2 bits each at bit 8i of a word, bits of 1 bit each at bit 4i.
fn pairs(word: u32, i: u32) -> vec4<u32> {
  let v = word >> (8u * (i & 3u));
  return vec4<u32>(v, v >> 2u, v >> 4u, v >> 6u) & vec4<u32>(3u);
}
fn bits(word: u32, i: u32) -> vec4<u32> {
  let v = word >> (4u * (i & 7u));
  return vec4<u32>(v, v >> 1u, v >> 2u, v >> 3u) & vec4<u32>(1u);
}

fn byte(word: u32, i: u32) -> u32 { return (word >> (8u * i)) & 0xffu; }
fn signed_byte(word: u32, i: u32) -> f32 { return f32(bitcast<i32>(word << (24u - 8u * i)) >> 24u); }

// Eight is 8 columns of a row.
struct Eight { a: vec4<f32>, b: vec4<f32> }

// pick is component i of v without an address.
fn pick(v: vec4<u32>, i: u32) -> u32 {
  let two = select(v.xy, v.zw, vec2<bool>(i >= 2u));
  return select(two.x, two.y, (i & 1u) == 1u);
}
