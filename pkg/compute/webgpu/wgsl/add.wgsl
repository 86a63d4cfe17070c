// Add to the output.
fn store(token: u32, row: u32, v: f32) {
  let to = at(p.y0, token, row + p.offset);
  y0[to] = y0[to] + v;
}
