package quanttest

import (
	"encoding/binary"
	"math"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// Tile returns the tile of a form of activations that the contract of quant.Act
// describes, from one row a token. All rows have the same length.
func Tile(act quant.Act, x [][]float32) []byte {
	cols := len(x[0])
	out := make([]byte, 0, act.ActBytes(len(x), cols))
	if act == quant.ActF32 {
		for c := range cols {
			for tok := range x {
				out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x[tok][c]))
			}
		}
		return out
	}
	for at := 0; at < cols; at += quant.Block {
		blocks := make([]int8Block, len(x))
		for tok := range x {
			blocks[tok] = newInt8Block(x[tok][at:min(at+quant.Block, cols)])
		}
		out = appendInt8Blocks(out, blocks)
	}
	return out
}

// int8Block is Block activations rounded to int8 under one scale.
type int8Block struct {
	d float32
	q [quant.Block]int8
}

func newInt8Block(x []float32) (b int8Block) {
	var largest float32
	for _, v := range x {
		largest = max(largest, float32(math.Abs(float64(v))))
	}
	if largest < 1e-30 {
		return b
	}
	b.d = largest * float32(1.0/127)
	inverse := 1 / b.d
	for i, v := range x {
		b.q[i] = int8(math.RoundToEven(float64(v * inverse)))
	}
	return b
}

// sum returns Σq of the values from first up to last.
func (b *int8Block) sum(first, last int) (sum int32) {
	for _, q := range b.q[first:last] {
		sum += int32(q)
	}
	return sum
}

func appendInt8Blocks(out []byte, blocks []int8Block) []byte {
	le := binary.LittleEndian
	for i := range blocks {
		for _, q := range blocks[i].q {
			out = append(out, byte(q))
		}
	}
	for i := range blocks {
		out = le.AppendUint32(out, math.Float32bits(blocks[i].d))
	}
	for i := range blocks {
		out = le.AppendUint32(out, math.Float32bits(blocks[i].d*float32(blocks[i].sum(0, quant.Block))))
	}
	for i := range blocks {
		out = le.AppendUint32(out, uint32(-8*blocks[i].sum(0, quant.Block)))
	}
	for i := range blocks {
		out = le.AppendUint16(out, uint16(blocks[i].sum(0, 16)))
		out = le.AppendUint16(out, uint16(blocks[i].sum(16, quant.Block)))
	}
	return out
}

// int8Values returns the values that the int8 form of a row holds.
func int8Values(x []float32) []float32 {
	out := make([]float32, 0, len(x))
	for at := 0; at < len(x); at += quant.Block {
		b := newInt8Block(x[at:min(at+quant.Block, len(x))])
		for _, q := range b.q[:min(quant.Block, len(x)-at)] {
			out = append(out, b.d*float32(q))
		}
	}
	return out
}
