// Packed keys and values: see compute.KVClass. A layer has a pool of pages for each form: the
// oldest, then halves, then the codes between. A page has for each head its keys, codes and then
// scales, and its values likewise. 32 dimensions of a position are as many words as a value has
// bits: 16 bits are pairs, 8 and 4 bits stand in ascending order, 2 bits too; 3 bits are these
// two words and one of the highest bits. The words of keys are [word][64 positions], those of
// values [64 positions][word]. A scale is a word of two halves: scale and least value.
//   8 bits: a scale for GROUP dimensions of a position, keys' [DIM / GROUP][64], values' [64][DIM / GROUP]
//   less:   keys' for KEY_GROUP positions of a dimension, [DIM][64 / KEY_GROUP], values' as of 8 bits

// key_words and value_words are the words of a head's keys and values in a page.
fn key_words(bits: u32) -> u32 {
  if (bits == 16u) { return 32u * DIM; }
  if (bits == 8u) { return 16u * DIM + DIM / GROUP * 64u; }
  return 2u * DIM * bits + DIM * (64u / KEY_GROUP);
}

fn value_words(bits: u32) -> u32 {
  if (bits == 16u) { return 32u * DIM; }
  return 2u * DIM * bits + 64u * (DIM / GROUP);
}

// head_at is where a head of a page begins in a pool that begins at base.
fn head_at(base: u32, bits: u32, page: u32, heads: u32, head: u32) -> u32 {
  return base + (page * heads + head) * (key_words(bits) + value_words(bits));
}
