// What the kernels of products with one row of activations share. A slot is an output of
// the workgroup; its lanes leave their sums in workgroup memory.
struct Params {
  supers: u32, first: u32, rows: u32, offset: u32,
  end0: u32, end1: u32, list: u32, act: u32,
  eps: f32, columns: f32, dim: u32, pairs: u32,
  neox: u32, pad0: u32, pad1: u32, pad2: u32,
  x: Rows, y0: Rows, y1: Rows, y2: Rows
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> gain: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y0: array<f32>;
@group(0) @binding(6) var<storage, read_write> y1: array<f32>;
@group(0) @binding(7) var<storage, read_write> y2: array<f32>;

var<workgroup> sums: array<f32, SUMS>; // [slot][STRIDE], one slot more for the squares

fn dot4(w: vec4<f32>, v: vec4<f32>, sum: f32) -> f32 {
  return fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sum))));
}

// total joins a slot's lanes; what lies behind the last is zero.
fn total(slot: u32) -> f32 {
  let at_slot = slot * STRIDE;
  var t = 0.0;
  for (var l = 0u; l < LANES; l += 8u) {
    let l0 = sums[at_slot + l];
    let l1 = sums[at_slot + l + 1u];
    let l2 = sums[at_slot + l + 2u];
    let l3 = sums[at_slot + l + 3u];
    let l4 = sums[at_slot + l + 4u];
    let l5 = sums[at_slot + l + 5u];
    let l6 = sums[at_slot + l + 6u];
    let l7 = sums[at_slot + l + 7u];
    t = t + l0;
    t = t + l1;
    t = t + l2;
    t = t + l3;
    t = t + l4;
    t = t + l5;
    t = t + l6;
    t = t + l7;
  }
  return t;
}

fn activations(token: u32, segment: u32, i: u32) -> vec4<f32> {
  return x[token * p.x.row + i * p.x.group + segment * p.x.segment];
}

// four adds columns 4i to 4i + 3 of a segment to the sums of 4 rows.
fn four(q0: Packed, q1: Packed, q2: Packed, q3: Packed, i: u32, v: vec4<f32>, s: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(dot4(unpack(q0, i), v, s.x), dot4(unpack(q1, i), v, s.y), dot4(unpack(q2, i), v, s.z), dot4(unpack(q3, i), v, s.w));
}

fn leave(slot: u32, lane: u32, s: vec4<f32>) {
  let to = slot * STRIDE + lane;
  sums[to] = s.x;
  sums[to + STRIDE] = s.y;
  sums[to + 2u * STRIDE] = s.z;
  sums[to + 3u * STRIDE] = s.w;
}

// factor_of is the norm's factor, from the squares that the lanes left in the last slot.
fn factor_of(token: u32, thread: u32) -> f32 {
  if (!NORM) { return 1.0; }
  let t = total(SLOTS);
  if (!finite(t) && thread == 0u) { bad[token] = 1u; }
  return norm_factor(t, p.columns, p.eps);
}
