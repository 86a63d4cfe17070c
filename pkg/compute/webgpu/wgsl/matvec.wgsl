// Matvec: products of weights with one row of activations. A lane holds one piece of
// the columns, CHUNKS segments of 64, and takes 4 rows of weights at a time; a slot is
// an output of the workgroup. The order of a sum: a lane's columns ascending, then lanes
// ascending.
struct Params {
  supers: u32, first: u32, rows: u32, offset: u32,
  end0: u32, end1: u32, list: u32, act: u32,
  eps: f32, columns: f32, pad0: u32, pad1: u32,
  x: Rows, y0: Rows, y1: Rows, y2: Rows
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> gain: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y0: array<f32>;
@group(0) @binding(6) var<storage, read_write> y1: array<f32>;
@group(0) @binding(7) var<storage, read_write> y2: array<f32>;

var<workgroup> sums: array<f32, SUMS>; // [slot][LANES + 1], one slot more for the squares

fn dot4(w: vec4<f32>, v: vec4<f32>, sum: f32) -> f32 {
  return fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sum))));
}

fn total(slot: u32) -> f32 {
  var t = 0.0;
  for (var l = 0u; l < LANES; l++) { t = t + sums[slot * (LANES + 1u) + l]; }
  return t;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let lane = local.x % LANES;
  let group = local.x / LANES;
  var token = wg.y;
  if (p.list != 0u) { token = item(p.list - 1u, wg.y); }
  var squares = 0.0;
  if (group < GROUPS) {
    for (var step = 0u; step < STEPS; step++) {
      let slot = (step * GROUPS + group) * 4u;
      let r0 = row_of(wg.x * SLOTS + slot);
      let r1 = row_of(wg.x * SLOTS + slot + 1u);
      let r2 = row_of(wg.x * SLOTS + slot + 2u);
      let r3 = row_of(wg.x * SLOTS + slot + 3u);
      var s = vec4<f32>(0.0);
      squares = 0.0;
      for (var c = 0u; c < CHUNKS; c++) {
        let segment = lane * CHUNKS + c;
        if (segment < SEGMENTS) {
          let q0 = fetch(r0, segment);
          let q1 = fetch(r1, segment);
          let q2 = fetch(r2, segment);
          let q3 = fetch(r3, segment);
          for (var i = 0u; i < 16u; i++) {
            var v = x[token * p.x.row + i * p.x.group + segment * p.x.segment];
            if (NORM) {
              squares = dot4(v, v, squares);
              v = v * gain[i * SEGMENTS + segment];
            }
            s.x = dot4(unpack(q0, i), v, s.x);
            s.y = dot4(unpack(q1, i), v, s.y);
            s.z = dot4(unpack(q2, i), v, s.z);
            s.w = dot4(unpack(q3, i), v, s.w);
          }
        }
      }
      let to = slot * (LANES + 1u) + lane;
      sums[to] = s.x;
      sums[to + LANES + 1u] = s.y;
      sums[to + 2u * (LANES + 1u)] = s.z;
      sums[to + 3u * (LANES + 1u)] = s.w;
    }
    if (group == 0u) { sums[SLOTS * (LANES + 1u) + lane] = squares; }
  }
  workgroupBarrier();
  var factor = 1.0;
  if (NORM) {
    let t = total(SLOTS);
    if (!finite(t) && local.x == 0u) { bad[token] = 1u; }
    factor = norm_factor(t, p.columns, p.eps);
  }
  finish(wg.x * SLOTS, wg.y, local.x, factor);
}
