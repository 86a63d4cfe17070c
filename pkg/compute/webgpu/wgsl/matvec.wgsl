// Matvec: products of weights with one row of activations of up to 256 segments. A lane
// keeps the activations of its segment, 64 columns, and takes 4 rows of weights at a time;
// the next 4 are fetched meanwhile. The order of a sum: a lane's columns ascending, then
// lanes ascending.
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let lane = local.x % LANES;
  let group = local.x / LANES;
  var token = wg.y;
  if (p.list != 0u) { token = item(p.list - 1u, wg.y); }
  let first = wg.x * SLOTS + group * 4u;
  var q0 = fetch(row_of(first), lane);
  var q1 = fetch(row_of(first + 1u), lane);
  var q2 = fetch(row_of(first + 2u), lane);
  var q3 = fetch(row_of(first + 3u), lane);
  var v0 = activations(token, lane, 0u);
  var v1 = activations(token, lane, 1u);
  var v2 = activations(token, lane, 2u);
  var v3 = activations(token, lane, 3u);
  var v4 = activations(token, lane, 4u);
  var v5 = activations(token, lane, 5u);
  var v6 = activations(token, lane, 6u);
  var v7 = activations(token, lane, 7u);
  var v8 = activations(token, lane, 8u);
  var v9 = activations(token, lane, 9u);
  var v10 = activations(token, lane, 10u);
  var v11 = activations(token, lane, 11u);
  var v12 = activations(token, lane, 12u);
  var v13 = activations(token, lane, 13u);
  var v14 = activations(token, lane, 14u);
  var v15 = activations(token, lane, 15u);
  if (NORM) {
    if (group == 0u) {
      var squares = 0.0;
      squares = dot4(v0, v0, squares);
      squares = dot4(v1, v1, squares);
      squares = dot4(v2, v2, squares);
      squares = dot4(v3, v3, squares);
      squares = dot4(v4, v4, squares);
      squares = dot4(v5, v5, squares);
      squares = dot4(v6, v6, squares);
      squares = dot4(v7, v7, squares);
      squares = dot4(v8, v8, squares);
      squares = dot4(v9, v9, squares);
      squares = dot4(v10, v10, squares);
      squares = dot4(v11, v11, squares);
      squares = dot4(v12, v12, squares);
      squares = dot4(v13, v13, squares);
      squares = dot4(v14, v14, squares);
      squares = dot4(v15, v15, squares);
      sums[SLOTS * STRIDE + lane] = squares;
    }
    v0 = v0 * gain[lane];
    v1 = v1 * gain[1u * SEGMENTS + lane];
    v2 = v2 * gain[2u * SEGMENTS + lane];
    v3 = v3 * gain[3u * SEGMENTS + lane];
    v4 = v4 * gain[4u * SEGMENTS + lane];
    v5 = v5 * gain[5u * SEGMENTS + lane];
    v6 = v6 * gain[6u * SEGMENTS + lane];
    v7 = v7 * gain[7u * SEGMENTS + lane];
    v8 = v8 * gain[8u * SEGMENTS + lane];
    v9 = v9 * gain[9u * SEGMENTS + lane];
    v10 = v10 * gain[10u * SEGMENTS + lane];
    v11 = v11 * gain[11u * SEGMENTS + lane];
    v12 = v12 * gain[12u * SEGMENTS + lane];
    v13 = v13 * gain[13u * SEGMENTS + lane];
    v14 = v14 * gain[14u * SEGMENTS + lane];
    v15 = v15 * gain[15u * SEGMENTS + lane];
  }
  for (var step = 0u; step < STEPS; step++) {
    var n0 = q0;
    var n1 = q1;
    var n2 = q2;
    var n3 = q3;
    if (step + 1u < STEPS) {
      let next = first + (step + 1u) * GROUPS * 4u;
      n0 = fetch(row_of(next), lane);
      n1 = fetch(row_of(next + 1u), lane);
      n2 = fetch(row_of(next + 2u), lane);
      n3 = fetch(row_of(next + 3u), lane);
    }
    var s = vec4<f32>(0.0);
    s = four(q0, q1, q2, q3, 0u, v0, s);
    s = four(q0, q1, q2, q3, 1u, v1, s);
    s = four(q0, q1, q2, q3, 2u, v2, s);
    s = four(q0, q1, q2, q3, 3u, v3, s);
    s = four(q0, q1, q2, q3, 4u, v4, s);
    s = four(q0, q1, q2, q3, 5u, v5, s);
    s = four(q0, q1, q2, q3, 6u, v6, s);
    s = four(q0, q1, q2, q3, 7u, v7, s);
    s = four(q0, q1, q2, q3, 8u, v8, s);
    s = four(q0, q1, q2, q3, 9u, v9, s);
    s = four(q0, q1, q2, q3, 10u, v10, s);
    s = four(q0, q1, q2, q3, 11u, v11, s);
    s = four(q0, q1, q2, q3, 12u, v12, s);
    s = four(q0, q1, q2, q3, 13u, v13, s);
    s = four(q0, q1, q2, q3, 14u, v14, s);
    s = four(q0, q1, q2, q3, 15u, v15, s);
    leave((step * GROUPS + group) * 4u, lane, s);
    q0 = n0;
    q1 = n1;
    q2 = n2;
    q3 = n3;
  }
  workgroupBarrier();
  finish(wg.x * SLOTS, wg.y, local.x, factor_of(token, local.x));
}
