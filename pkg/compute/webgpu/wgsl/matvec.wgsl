// Matvec: products of weights with one row of activations. A lane holds one piece of the
// columns, CHUNKS segments of 64; a slot is an output of the workgroup. The order of a sum:
// a lane's columns ascending, then lanes ascending. The code is a loop over 32 columns: as
// one straight line it would not stay in the instruction caches between the kernels of a
// layer.
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

// factor_of is the norm's factor, from the squares that the lanes left in the last slot.
fn factor_of(token: u32, thread: u32) -> f32 {
  if (!NORM) { return 1.0; }
  let t = total(SLOTS);
  if (!finite(t) && thread == 0u) { bad[token] = 1u; }
  return norm_factor(t, p.columns, p.eps);
}

// activations_of are columns 4i to 4i + 3 of a segment, times the norm's gain.
fn activations_of(token: u32, segment: u32, i: u32) -> vec4<f32> {
  let v = activations(token, segment, i);
  if (NORM) { return v * gain[i * SEGMENTS + segment]; }
  return v;
}

fn dot8(w: Eight, a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 { return dot4(w.b, b, dot4(w.a, a, sum)); }

// squares_of adds the squares of a lane's activations.
fn squares_of(token: u32, lane: u32) -> f32 {
  var sum = 0.0;
  for (var c = 0u; c < CHUNKS; c++) {
    let segment = lane * CHUNKS + c;
    if (segment < SEGMENTS) {
      for (var i = 0u; i < 16u; i += 4u) {
        let v0 = activations(token, segment, i);
        let v1 = activations(token, segment, i + 1u);
        let v2 = activations(token, segment, i + 2u);
        let v3 = activations(token, segment, i + 3u);
        sum = dot4(v3, v3, dot4(v2, v2, dot4(v1, v1, dot4(v0, v0, sum))));
      }
    }
  }
  return sum;
}

// eight adds the columns from 32h + 8w on to the sums of ROWS rows.
fn eight(q0: Packed, q1: Packed, q2: Packed, q3: Packed, token: u32, segment: u32, h: u32, w: u32, sums_before: vec4<f32>) -> vec4<f32> {
  let a = activations_of(token, segment, 8u * h + 2u * w);
  let b = activations_of(token, segment, 8u * h + 2u * w + 1u);
  var s = sums_before;
  s.x = dot8(unpack(q0, h, w), a, b, s.x);
  s.y = dot8(unpack(q1, h, w), a, b, s.y);
  if (ROWS == 4u) {
    s.z = dot8(unpack(q2, h, w), a, b, s.z);
    s.w = dot8(unpack(q3, h, w), a, b, s.w);
  }
  return s;
}

// rows_of are the sums of a lane's columns with ROWS rows of weights from slot on.
fn rows_of(slot: u32, token: u32, lane: u32) -> vec4<f32> {
  let r0 = row_of(slot);
  let r1 = row_of(slot + 1u);
  let r2 = row_of(slot + 2u);
  let r3 = row_of(slot + 3u);
  var s = vec4<f32>(0.0);
  for (var c = 0u; c < CHUNKS; c++) {
    let segment = lane * CHUNKS + c;
    if (segment < SEGMENTS) {
      let q0 = fetch(r0, segment);
      let q1 = fetch(r1, segment);
      var q2 = q0;
      var q3 = q0;
      if (ROWS == 4u) {
        q2 = fetch(r2, segment);
        q3 = fetch(r3, segment);
      }
      for (var h = 0u; h < 2u; h++) {
        s = eight(q0, q1, q2, q3, token, segment, h, 0u, s);
        s = eight(q0, q1, q2, q3, token, segment, h, 1u, s);
        s = eight(q0, q1, q2, q3, token, segment, h, 2u, s);
        s = eight(q0, q1, q2, q3, token, segment, h, 3u, s);
      }
    }
  }
  return s;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let lane = local.x % LANES;
  let group = local.x / LANES;
  var token = wg.y;
  if (p.list != 0u) { token = item(p.list - 1u, wg.y); }
  begin(wg.x * SLOTS, wg.y, local.x);
  for (var step = 0u; step < STEPS; step++) {
    let slot = (step * GROUPS + group) * ROWS;
    let s = rows_of(wg.x * SLOTS + slot, token, lane);
    let to = slot * STRIDE + lane;
    sums[to] = s.x;
    sums[to + STRIDE] = s.y;
    if (ROWS == 4u) {
      sums[to + 2u * STRIDE] = s.z;
      sums[to + 3u * STRIDE] = s.w;
    }
  }
  if (NORM && group == 0u) { sums[SLOTS * STRIDE + lane] = squares_of(token, lane); }
  workgroupBarrier();
  finish(wg.x * SLOTS, wg.y, local.x, factor_of(token, local.x));
}
