// Route: the experts of each row, ascending, and their shares: those with the largest
// scores, of equal ones the first; a share is the softmax over these. A thread takes a row.
struct Params { rows: u32, count: u32, used: u32, pad: u32, scores: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read_write> routes: array<u32>; // [row][used][expert, share]

var<private> chosen: array<u32, 8>; // a bit for each expert

fn is_chosen(e: u32) -> bool { return (chosen[e / 32u] >> (e % 32u) & 1u) == 1u; }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let row = wg.x * 64u + local.x;
  if (row >= p.rows) { return; }
  for (var i = 0u; i < 8u; i++) { chosen[i] = 0u; }
  var most = 0.0;
  for (var u = 0u; u < p.used; u++) {
    var best = p.count;
    var value = 0.0;
    for (var e = 0u; e < p.count; e++) {
      if (!is_chosen(e)) {
        let v = scores[at(p.scores, row, e)];
        if (best == p.count || v > value) {
          best = e;
          value = v;
        }
      }
    }
    chosen[best / 32u] = chosen[best / 32u] | (1u << (best % 32u));
    if (u == 0u) { most = value; }
  }
  var sum = 0.0;
  for (var e = 0u; e < p.count; e++) {
    if (is_chosen(e)) { sum = sum + exponential(scores[at(p.scores, row, e)] - most); }
  }
  var to = 2u * row * p.used;
  for (var e = 0u; e < p.count; e++) {
    if (is_chosen(e)) {
      routes[to] = e;
      routes[to + 1u] = bitcast<u32>(exponential(scores[at(p.scores, row, e)] - most) / sum);
      to = to + 2u;
    }
  }
}
