package p16

import "github.com/shoal-llm/shoal/pkg/quant"

// Groups returns the number of groups that rows rows fill.
func Groups(rows int) int { return (rows + quant.Lanes - 1) / quant.Lanes }

// Lay copies one row, as it lies in the file, into lane r of a packed group.
type Lay func(group, row []byte, r int)

// Pack lays rows rows of rowBytes bytes into consecutive groups of groupBytes
// bytes. The missing lanes of the last group are rows of zero bytes, which every
// format reads as zeros.
func Pack(dst, src []byte, rows, rowBytes, groupBytes int, lay Lay) {
	for r := range rows {
		lay(dst[r/quant.Lanes*groupBytes:][:groupBytes], src[r*rowBytes:][:rowBytes], r%quant.Lanes)
	}
	if rows%quant.Lanes == 0 {
		return
	}
	last := dst[rows/quant.Lanes*groupBytes:][:groupBytes]
	zeros := make([]byte, rowBytes)
	for r := rows % quant.Lanes; r < quant.Lanes; r++ {
		lay(last, zeros, r)
	}
}

// vector is the bytes of one step of four int8 columns: 16 lanes × 4.
const vector = 4 * quant.Lanes

// LayBytes interleaves bytes of lane r: byte i goes to byte i%4 of the lane in
// vector i/4. len(src) is a multiple of 4.
func LayBytes(dst, src []byte, r int) {
	for i := 0; i+4 <= len(src); i += 4 {
		copy(dst[i/4*vector+4*r:][:4], src[i:])
	}
}

// TakeBytes reads back what LayBytes laid.
func TakeBytes(dst, src []byte, r int) {
	for i := 0; i+4 <= len(dst); i += 4 {
		copy(dst[i:i+4], src[i/4*vector+4*r:])
	}
}
