// Activate: dst = act(gate)∘up.
struct Params { act: u32, pad0: u32, pad1: u32, pad2: u32, gate: Rows, up: Rows, dst: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read> up: array<f32>;
@group(0) @binding(3) var<storage, read_write> dst: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let col = wg.x * 64u + local.x;
  if (col < p.dst.cols) {
    dst[at(p.dst, wg.y, col)] = activation(p.act, gate[at(p.gate, wg.y, col)]) * up[at(p.up, wg.y, col)];
  }
}
