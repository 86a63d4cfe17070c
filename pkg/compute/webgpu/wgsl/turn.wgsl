var<workgroup> turning: array<f32, DIM>;

// turn multiplies what all threads have written to turning by the normalised Hadamard matrix,
// its own inverse.
fn turn(t: u32, threads: u32) {
  workgroupBarrier();
  for (var half_of = 1u; half_of < DIM; half_of = half_of * 2u) {
    for (var i = t; i < DIM / 2u; i += threads) {
      let low = i / half_of * 2u * half_of + i % half_of;
      let a = turning[low];
      let b = turning[low + half_of];
      turning[low] = a + b;
      turning[low + half_of] = a - b;
    }
    workgroupBarrier();
  }
  for (var i = t; i < DIM; i += threads) { turning[i] = turning[i] / sqrt(f32(DIM)); }
  workgroupBarrier();
}
