package synthetic

import (
	"encoding/binary"
	"math"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// splitMix is SplitMix64 (Steele, Lea and Flood).
type splitMix uint64

func (s *splitMix) next() uint64 {
	*s += 0x9E3779B97F4A7C15
	z := uint64(*s)
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// poolBlocks is how many blocks a tape is put together of.
const poolBlocks = 1 << 10

// tape returns n blocks of a format in random order. Their values are about as
// large as in trained weights: a product with a normed row of width values is
// about 1.
func tape(f quant.Format, n, width int) []byte {
	random := splitMix(f.GGML)
	pool := pool(f, &random, 1/math.Sqrt(float64(width)))
	out := make([]byte, 0, n*f.BlockBytes)
	for range n {
		at := int(random.next()%poolBlocks) * f.BlockBytes
		out = append(out, pool[at:at+f.BlockBytes]...)
	}
	return out
}

// pool returns random blocks whose values have a root mean square of about size.
func pool(f quant.Format, random *splitMix, size float64) []byte {
	out := make([]byte, 0, poolBlocks*f.BlockBytes)
	block, values := make([]byte, f.BlockBytes), make([]float32, f.BlockElems)
	for len(out) < cap(out) {
		for i := range block {
			block[i] = byte(random.next() >> 56)
		}
		f.Decode(values, block)
		sum := 0.0
		for _, v := range values {
			sum += float64(v) * float64(v)
		}
		if rms := math.Sqrt(sum / float64(len(values))); rms > size/2 && rms < size*2 {
			out = append(out, block...)
		}
	}
	return out
}

// gains returns n float32 values between 0.9 and 1.1.
func gains(n int) []byte {
	random := splitMix(2)
	var out []byte
	for range n {
		v := 0.9 + 0.2*float32(random.next()%1024)/1024
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out
}
