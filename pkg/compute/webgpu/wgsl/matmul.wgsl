// Matmul: products of weights with many rows of activations, in tiles of 64 rows of
// activations and 128 rows of weights; a thread has 4 × 8 outputs. Sums go as in matvec:
// over the columns of a lane's piece ascending, then pieces ascending, so there are two
// accumulators.
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
@group(0) @binding(8) var<storage, read> factors: array<f32>;

var<workgroup> xs: array<vec4<f32>, 512>;  // [32 columns][64 rows]
var<workgroup> ws: array<vec4<f32>, 1024>; // [32 columns][128 rows]

fn count() -> u32 { if (p.list != 0u) { return length(p.list - 1u); } return batch[0]; }

fn load_x(first: u32, block: u32, thread: u32) {
  let rows = count();
  let t = thread % 64u;
  var row = min(first + t, rows - 1u);
  if (p.list != 0u) { row = item(p.list - 1u, row); }
  for (var j = thread / 64u; j < 8u; j += 4u) {
    let i = (block & 1u) * 8u + j;
    var v = x[row * p.x.row + i * p.x.group + (block / 2u) * p.x.segment];
    if (NORM) { v = v * gain[i * SEGMENTS + block / 2u]; }
    let to = j * 64u + t / 4u;
    xs[to][t & 3u] = v.x;
    xs[to + 16u][t & 3u] = v.y;
    xs[to + 32u][t & 3u] = v.z;
    xs[to + 48u][t & 3u] = v.w;
  }
}

fn load_w(first: u32, block: u32, thread: u32) {
  let r = thread % 128u;
  let q = fetch(row_of(first + r), block / 2u);
  for (var j = 0u; j < 2u; j++) {
    let k = (thread / 128u) * 2u + j;
    let e = unpack(q, block & 1u, k);
    let to = k * 256u + r / 4u;
    ws[to][r & 3u] = e.a.x;
    ws[to + 32u][r & 3u] = e.a.y;
    ws[to + 64u][r & 3u] = e.a.z;
    ws[to + 96u][r & 3u] = e.a.w;
    ws[to + 128u][r & 3u] = e.b.x;
    ws[to + 160u][r & 3u] = e.b.y;
    ws[to + 192u][r & 3u] = e.b.z;
    ws[to + 224u][r & 3u] = e.b.w;
  }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let tx = local.x % 16u;
  let ty = local.x / 16u;
  var a0 = vec4<f32>(0.0); var a1 = a0; var a2 = a0; var a3 = a0; var b0 = a0; var b1 = a0; var b2 = a0; var b3 = a0;
  var s0 = a0; var s1 = a0; var s2 = a0; var s3 = a0; var t0 = a0; var t1 = a0; var t2 = a0; var t3 = a0;
  for (var block = 0u; block < 2u * SEGMENTS; block++) {
    workgroupBarrier();
    load_x(wg.y * 64u, block, local.x);
    load_w(wg.x * 128u, block, local.x);
    workgroupBarrier();
    for (var k = 0u; k < 32u; k++) {
      let v = xs[k * 16u + ty];
      let w = ws[k * 32u + tx];
      let u = ws[k * 32u + 16u + tx];
      a0 = fma(w, vec4<f32>(v.x), a0);
      a1 = fma(w, vec4<f32>(v.y), a1);
      a2 = fma(w, vec4<f32>(v.z), a2);
      a3 = fma(w, vec4<f32>(v.w), a3);
      b0 = fma(u, vec4<f32>(v.x), b0);
      b1 = fma(u, vec4<f32>(v.y), b1);
      b2 = fma(u, vec4<f32>(v.z), b2);
      b3 = fma(u, vec4<f32>(v.w), b3);
    }
    if ((block + 1u) % (2u * CHUNKS) == 0u || block + 1u == 2u * SEGMENTS) {
      s0 = s0 + a0; s1 = s1 + a1; s2 = s2 + a2; s3 = s3 + a3;
      t0 = t0 + b0; t1 = t1 + b1; t2 = t2 + b2; t3 = t3 + b3;
      a0 = vec4<f32>(0.0); a1 = a0; a2 = a0; a3 = a0; b0 = a0; b1 = a0; b2 = a0; b3 = a0;
    }
  }
  let first = wg.y * 64u + ty * 4u;
  finish(first, wg.x * 128u + tx * 4u, s0, t0);
  finish(first + 1u, wg.x * 128u + tx * 4u, s1, t1);
  finish(first + 2u, wg.x * 128u + tx * 4u, s2, t2);
  finish(first + 3u, wg.x * 128u + tx * 4u, s3, t3);
}
