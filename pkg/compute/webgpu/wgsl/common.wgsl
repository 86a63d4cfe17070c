// What kernels share. Sums are chains of fma on finished factors, in an order that
// is written down; nothing here may be fused or reordered by a compiler.

// The batch: a head of 16 words, 4 words for each row, then lists, each behind its length, and
// page tables.
//   0  rows   1  splits of the longest context   4…15  where the lists of operations begin
//   row: position, where its page table begins, and those of the finer forms: halves, codes
@group(1) @binding(0) var<storage, read> batch: array<u32>;
@group(1) @binding(1) var<storage, read_write> bad: array<u32>;

fn position(row: u32) -> u32 { return batch[16u + 4u * row]; }
fn page(row: u32, index: u32) -> u32 { return batch[batch[17u + 4u * row] + index]; }
fn recent_page(row: u32, index: u32) -> u32 { return batch[batch[18u + 4u * row] + index]; }
fn upper_page(row: u32, index: u32) -> u32 { return batch[batch[19u + 4u * row] + index]; }
fn length(list: u32) -> u32 { return batch[batch[4u + list] - 1u]; }
fn item(list: u32, index: u32) -> u32 { return batch[batch[4u + list] + index]; }

// Shape of activations: float4 groups. Column c of a row is component c mod 4 of
// group (c mod 64)/4 of segment c/64.
struct Rows { row: u32, group: u32, segment: u32, cols: u32 }

fn at(s: Rows, row: u32, col: u32) -> u32 {
  return 4u * (row * s.row + (col % 64u) / 4u * s.group + col / 64u * s.segment) + col % 4u;
}

// finite looks at the exponent: a comparison may be taken away.
fn finite(v: f32) -> bool { return (bitcast<u32>(v) & 0x7f800000u) != 0x7f800000u; }

// exponential is e to the power of v to 2 units in the last place; e to the power
// of 0 is 1 exactly and below −87 it is 0.
fn exponential(v: f32) -> f32 {
  let x = clamp(v, -87.0, 88.0);
  let n = floor(fma(x, 1.44269504, 0.5));
  let r = fma(n, 2.12194440e-4, fma(n, -0.693359375, x));
  var s = 1.98412698e-4;
  s = fma(s, r, 1.38888889e-3);
  s = fma(s, r, 8.33333377e-3);
  s = fma(s, r, 4.16666679e-2);
  s = fma(s, r, 0.166666672);
  s = fma(s, r, 0.5);
  s = fma(s, r, 1.0);
  s = fma(s, r, 1.0);
  return select(bitcast<f32>(bitcast<u32>(s) + (bitcast<u32>(i32(n)) << 23u)), 0.0, v < -87.0);
}

fn tanh_of(v: f32) -> f32 {
  let x = clamp(v, -10.0, 10.0);
  return 1.0 - 2.0 / (exponential(2.0 * x) + 1.0);
}

// activation 0 is SiLU, 1 GELU by tanh.
fn activation(kind: u32, x: f32) -> f32 {
  if (kind == 0u) { return x / (1.0 + exponential(-x)); }
  let inner = fma(0.044715 * x * x, x, x) * 0.797884561;
  return 0.5 * x * (1.0 + tanh_of(inner));
}

// The norm's factor of a row of n columns with a sum of squares.
fn norm_factor(squares: f32, columns: f32, eps: f32) -> f32 {
  return 1.0 / sqrt(fma(squares, 1.0 / columns, eps));
}
