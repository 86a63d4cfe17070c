package p16

import (
	"encoding/binary"
	"math"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// inv127 is 1/127 rounded to float32: scale = largest magnitude · inv127.
const inv127 = float32(1.0 / 127.0)

// smallest is the magnitude below which a block counts as zero.
const smallest = float32(1e-30)

// QuantizeTile writes the activations x as token t of an int8 tile of T tokens
// (quant.ActInt8). A last block that x does not fill is padded with zeros. It is
// the reference of every vectorised quantiser; values must be finite.
func QuantizeTile(tile []byte, x []float32, T, t int) {
	for block := 0; len(x) > 0; block++ {
		n := min(len(x), quant.Block)
		quantizeBlock(int8Block(tile, T, block), x[:n], t)
		x = x[n:]
	}
}

// quantizeBlock writes up to 32 values as token t of one block of a tile.
func quantizeBlock(b tileBlock, x []float32, t int) {
	var largest float32
	for _, v := range x {
		largest = max(largest, float32(math.Abs(float64(v))))
	}
	var scale, inverse float32
	if !(largest < smallest) {
		scale = largest * inv127
		inverse = 1 / scale
	}
	q := b.q(t)
	clear(q)
	var sums [2]int32
	for i, v := range x {
		n := int32(math.RoundToEven(float64(float32(v * inverse))))
		q[i] = byte(int8(n))
		sums[i/16] += n
	}
	b.setScale(t, scale, sums)
}

// PackF32Tile writes the activations x as token t of a float32 tile of T tokens
// (quant.ActF32).
func PackF32Tile(tile []byte, x []float32, T, t int) {
	for c, v := range x {
		binary.LittleEndian.PutUint32(tile[4*(c*T+t):], math.Float32bits(v))
	}
}

// tileBlock is one block of an int8 tile: 48·T bytes.
type tileBlock struct {
	data []byte
	T    int
}

// int8Block returns block i of an int8 tile of T tokens.
func int8Block(tile []byte, T, i int) tileBlock {
	size := quant.ActInt8.ActBytes(T, quant.Block)
	return tileBlock{tile[i*size : (i+1)*size : (i+1)*size], T}
}

// q returns the 32 int8 values of token t.
func (b tileBlock) q(t int) []byte {
	return b.data[t*quant.Block : (t+1)*quant.Block : (t+1)*quant.Block]
}

// scale returns d and ds of token t.
func (b tileBlock) scale(t int) (d, ds float32) {
	return b.f32(32*b.T + 4*t), b.f32(36*b.T + 4*t)
}

// sums returns Σq of the values 0..15 and of 16..31 of token t.
func (b tileBlock) sums(t int) (low, high int32) {
	both := int32(binary.LittleEndian.Uint32(b.data[44*b.T+4*t:]))
	return int32(int16(both)), both >> 16
}

func (b tileBlock) f32(at int) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(b.data[at:]))
}

// setScale writes the scale of token t and what follows from it and from the
// sums of the two halves of its values.
func (b tileBlock) setScale(t int, d float32, sums [2]int32) {
	sum := sums[0] + sums[1]
	ds := float32(d * float32(sum))
	put := binary.LittleEndian.PutUint32
	put(b.data[32*b.T+4*t:], math.Float32bits(d))
	put(b.data[36*b.T+4*t:], math.Float32bits(ds))
	put(b.data[40*b.T+4*t:], uint32(-8*sum))
	put(b.data[44*b.T+4*t:], uint32(uint16(sums[0]))|uint32(sums[1])<<16)
}
