// The end of a product: store in up to three outputs, each of some rows of the weights.
fn row_of(slot: u32) -> u32 { return p.first + min(slot, p.rows - 1u); }

fn finish(first: u32, token: u32, thread: u32, factor: f32) {
  for (var s = thread; s < SLOTS; s += THREADS) {
    if (first + s >= p.rows) { return; }
    store(token, first + s, total(s) * factor);
  }
}

fn begin(first: u32, token: u32, thread: u32) {}
