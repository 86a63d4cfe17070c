// The end of a product with rows of one expert for each row of the output: p.rows rows of
// each expert lie below each other, of which p.end0 from p.offset on are in the store.
@group(0) @binding(8) var<storage, read> routes: array<u32>; // [place][expert, share]

var<private> below: u32; // rows of the experts before

fn begin(first: u32, place: u32, thread: u32) { below = routes[2u * place] * p.rows; }

fn row_of(slot: u32) -> u32 {
  let row = below + min(slot, p.rows - 1u);
  return p.first + min(max(row, p.offset) - p.offset, p.end0 - 1u);
}

fn finish(first: u32, place: u32, thread: u32, factor: f32) {
  for (var s = thread; s < SLOTS; s += THREADS) {
    let row = below + first + s;
    if (first + s < p.rows && row >= p.offset && row < p.offset + p.end0) {
      y0[at(p.y0, place, first + s)] = total(s) * factor;
    }
  }
}
