fn store(token: u32, row: u32, v: f32) {
  let out = row + p.offset;
  if (out < p.end0) { y0[at(p.y0, token, out)] = v; return; }
  if (out < p.end1) { y1[at(p.y1, token, out - p.end0)] = v; return; }
  y2[at(p.y2, token, out - p.end1)] = v;
}
