// Picked: the largest of a row's parts. Column 0 of dst is where it is; column 1 is 1,
// or 0 where some value is no number or infinite, or all are negative infinity.
struct Params { quads: u32, pad0: u32, pad1: u32, pad2: u32, x: Rows, dst: Rows }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> parts: array<u32>;
@group(0) @binding(2) var<storage, read_write> dst: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  if (local.x > 0u) { return; }
  var best = 0u;
  var column = 0u;
  for (var part = 0u; part < 64u; part++) {
    let start = 2u * (wg.x * 64u + part);
    if (parts[start] > best || parts[start] == best && parts[start + 1u] < column) {
      best = parts[start];
      column = parts[start + 1u];
    }
  }
  dst[at(p.dst, wg.x, 0u)] = f32(column);
  dst[at(p.dst, wg.x, 1u)] = select(0.0, 1.0, best > 0x007fffffu && best < 0xff800000u);
}
