// Matvec: products of weights with one row of activations. A lane holds one piece of
// the columns, CHUNKS segments of 64, and takes 4 rows of weights at a time; a slot is
// an output of the workgroup. The order of a sum: a lane's columns ascending, then lanes
// ascending.
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
fn four(q0: Packed, q1: Packed, q2: Packed, q3: Packed, token: u32, segment: u32, i: u32, s: vec4<f32>) -> vec4<f32> {
  var v = activations(token, segment, i);
  if (NORM) { v = v * gain[i * SEGMENTS + segment]; }
  return vec4<f32>(dot4(unpack(q0, i), v, s.x), dot4(unpack(q1, i), v, s.y), dot4(unpack(q2, i), v, s.z), dot4(unpack(q3, i), v, s.w));
}

// squares_of adds the squares of a lane's activations.
fn squares_of(token: u32, lane: u32) -> f32 {
  var sum = 0.0;
  for (var c = 0u; c < CHUNKS; c++) {
    let segment = lane * CHUNKS + c;
    if (segment < SEGMENTS) {
      for (var i = 0u; i < 16u; i++) {
        let v = activations(token, segment, i);
        sum = dot4(v, v, sum);
      }
    }
  }
  return sum;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let lane = local.x % LANES;
  let group = local.x / LANES;
  var token = wg.y;
  if (p.list != 0u) { token = item(p.list - 1u, wg.y); }
  for (var step = 0u; step < STEPS; step++) {
    let slot = (step * GROUPS + group) * 4u;
    let r0 = row_of(wg.x * SLOTS + slot);
    let r1 = row_of(wg.x * SLOTS + slot + 1u);
    let r2 = row_of(wg.x * SLOTS + slot + 2u);
    let r3 = row_of(wg.x * SLOTS + slot + 3u);
    var s = vec4<f32>(0.0);
    for (var c = 0u; c < CHUNKS; c++) {
      let g = lane * CHUNKS + c;
      if (g < SEGMENTS) {
        let q0 = fetch(r0, g);
        let q1 = fetch(r1, g);
        let q2 = fetch(r2, g);
        let q3 = fetch(r3, g);
        s = four(q0, q1, q2, q3, token, g, 0u, s);
        s = four(q0, q1, q2, q3, token, g, 1u, s);
        s = four(q0, q1, q2, q3, token, g, 2u, s);
        s = four(q0, q1, q2, q3, token, g, 3u, s);
        s = four(q0, q1, q2, q3, token, g, 4u, s);
        s = four(q0, q1, q2, q3, token, g, 5u, s);
        s = four(q0, q1, q2, q3, token, g, 6u, s);
        s = four(q0, q1, q2, q3, token, g, 7u, s);
        s = four(q0, q1, q2, q3, token, g, 8u, s);
        s = four(q0, q1, q2, q3, token, g, 9u, s);
        s = four(q0, q1, q2, q3, token, g, 10u, s);
        s = four(q0, q1, q2, q3, token, g, 11u, s);
        s = four(q0, q1, q2, q3, token, g, 12u, s);
        s = four(q0, q1, q2, q3, token, g, 13u, s);
        s = four(q0, q1, q2, q3, token, g, 14u, s);
        s = four(q0, q1, q2, q3, token, g, 15u, s);
      }
    }
    let to = slot * STRIDE + lane;
    sums[to] = s.x;
    sums[to + STRIDE] = s.y;
    sums[to + 2u * STRIDE] = s.z;
    sums[to + 3u * STRIDE] = s.w;
  }
  if (NORM && group == 0u) { sums[SLOTS * STRIDE + lane] = squares_of(token, lane); }
  workgroupBarrier();
  var factor = 1.0;
  if (NORM) {
    let t = total(SLOTS);
    if (!finite(t) && local.x == 0u) { bad[token] = 1u; }
    factor = norm_factor(t, p.columns, p.eps);
  }
  finish(wg.x * SLOTS, wg.y, local.x, factor);
}
