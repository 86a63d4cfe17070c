// Matvec of long rows: as matvec, but a lane has CHUNKS segments and reads its activations
// again for each 4 rows.
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

fn activation_of(token: u32, segment: u32, i: u32) -> vec4<f32> {
  let v = activations(token, segment, i);
  if (NORM) { return v * gain[i * SEGMENTS + segment]; }
  return v;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let lane = local.x % LANES;
  let group = local.x / LANES;
  var token = wg.y;
  if (p.list != 0u) { token = item(p.list - 1u, wg.y); }
  for (var step = 0u; step < STEPS; step++) {
    let slot = (step * GROUPS + group) * 4u;
    let row = wg.x * SLOTS + slot;
    var s = vec4<f32>(0.0);
    for (var c = 0u; c < CHUNKS; c++) {
      let segment = lane * CHUNKS + c;
      if (segment < SEGMENTS) {
        let q0 = fetch(row_of(row), segment);
        let q1 = fetch(row_of(row + 1u), segment);
        let q2 = fetch(row_of(row + 2u), segment);
        let q3 = fetch(row_of(row + 3u), segment);
        s = four(q0, q1, q2, q3, 0u, activation_of(token, segment, 0u), s);
        s = four(q0, q1, q2, q3, 1u, activation_of(token, segment, 1u), s);
        s = four(q0, q1, q2, q3, 2u, activation_of(token, segment, 2u), s);
        s = four(q0, q1, q2, q3, 3u, activation_of(token, segment, 3u), s);
        s = four(q0, q1, q2, q3, 4u, activation_of(token, segment, 4u), s);
        s = four(q0, q1, q2, q3, 5u, activation_of(token, segment, 5u), s);
        s = four(q0, q1, q2, q3, 6u, activation_of(token, segment, 6u), s);
        s = four(q0, q1, q2, q3, 7u, activation_of(token, segment, 7u), s);
        s = four(q0, q1, q2, q3, 8u, activation_of(token, segment, 8u), s);
        s = four(q0, q1, q2, q3, 9u, activation_of(token, segment, 9u), s);
        s = four(q0, q1, q2, q3, 10u, activation_of(token, segment, 10u), s);
        s = four(q0, q1, q2, q3, 11u, activation_of(token, segment, 11u), s);
        s = four(q0, q1, q2, q3, 12u, activation_of(token, segment, 12u), s);
        s = four(q0, q1, q2, q3, 13u, activation_of(token, segment, 13u), s);
        s = four(q0, q1, q2, q3, 14u, activation_of(token, segment, 14u), s);
        s = four(q0, q1, q2, q3, 15u, activation_of(token, segment, 15u), s);
      }
    }
    leave(slot, lane, s);
  }
  if (NORM && group == 0u) { sums[SLOTS * STRIDE + lane] = squares_of(token, lane); }
  workgroupBarrier();
  finish(wg.x * SLOTS, wg.y, local.x, factor_of(token, local.x));
}
