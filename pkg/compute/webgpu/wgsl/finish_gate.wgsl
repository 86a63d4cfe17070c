// The end of a gated product: the weights are rows of the gate, then as many of up. Slot
// 2i is row i of the gate and slot 2i + 1 row i of up.
fn row_of(slot: u32) -> u32 { return p.first + min(slot / 2u, p.rows / 2u - 1u) + (slot & 1u) * (p.rows / 2u); }

fn finish(first: u32, token: u32, thread: u32, factor: f32) {
  for (var s = 2u * thread; s < SLOTS; s += 2u * THREADS) {
    if (first + s >= p.rows) { return; }
    let g = total(s) * factor;
    y0[at(p.y0, token, (first + s) / 2u)] = activation(p.act, g) * (total(s + 1u) * factor);
  }
}

fn begin(first: u32, token: u32, thread: u32) {}
