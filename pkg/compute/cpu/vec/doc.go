// Package vec is the vector half of the CPU class: what happens to rows of
// activations and to pages of keys and values between the matrix products.
//
// Every operation is specified to the bit, and all instruction set levels give
// the same bits (architecture law 1). The rules:
//
//   - Products and sums are float32, rounded to nearest even, subnormals kept.
//     Where the text says fma the product is not rounded: one rounding in all.
//   - A sum over a row has 16 lanes: value i belongs to lane i mod 16. Lanes are
//     joined by halves: 8+8, 4+4, 2+2, 1+1.
//   - Division and square root are IEEE; no estimates.
//   - exp is the polynomial of Exp, with exp(0) = 1 exactly.
//   - Rows that hold a NaN or an infinity have no specified value, but do not
//     touch others.
//
// Unless an operation says otherwise, rows are whole numbers of 16 values; the
// backend pads shorter ones with zeros, which change no sum. Destinations may be
// the source itself, and overlap it in no other way.
package vec
