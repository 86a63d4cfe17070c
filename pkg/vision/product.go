package vision

import (
	"encoding/binary"
	"math"
	"sync"
	"sync/atomic"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// kernel multiplies by the float32 kernels of the weight formats: one chain of fused
// multiply-adds for each value, in order of columns, with the same bits on every
// processor. Weights of any format are decoded a group of quant.Lanes rows at a time,
// into a worker's own memory, and packed there: they are never held widened.
type kernel struct {
	cpu      *quant.CPU // of plain float32
	multiply quant.MatMul
	workers  int
}

// tiled are rows of cols values as kernels take them.
type tiled struct {
	rows, cols int
	data       []byte
}

// tile lays rows out, which lie stride values apart.
func tile(x []float32, rows, cols, stride int) tiled {
	t := tiled{rows, cols, make([]byte, 4*rows*cols)}
	t.each(func(first, width int) {
		out := t.data[4*first*cols:]
		for i := range width {
			for c, v := range x[(first+i)*stride:][:cols] {
				binary.LittleEndian.PutUint32(out[4*(c*width+i):], math.Float32bits(v))
			}
		}
	})
	return t
}

// each calls f for the tiles: the widest ones that the rest fills.
func (t tiled) each(f func(first, width int)) {
	for first := 0; first < t.rows; {
		for _, width := range quant.TileTokens {
			if width <= t.rows-first {
				f(first, width)
				first += width
				break
			}
		}
	}
}

// scratch is a worker's memory for one group of weights.
type scratch struct {
	values      []float32
	raw, packed []byte
	out         [quant.Lanes * 12]float32
}

// group computes x·w of quant.Lanes rows of w, or those that are left of rows from
// first on: weights writes row i of w, put takes the values of a row of x.
func (k *kernel) group(s *scratch, x tiled, first, rows int, weights func(dst []float32, i int), put func(row int, values []float32)) {
	n := min(quant.Lanes, rows-first)
	if len(s.values) < x.cols {
		s.values = make([]float32, x.cols)
		s.raw = make([]byte, 4*quant.Lanes*x.cols)
		s.packed = make([]byte, k.cpu.GroupBytes(x.cols))
	}
	for i := range n {
		weights(s.values[:x.cols], first+i)
		raw := s.raw[4*i*x.cols:]
		for c, v := range s.values[:x.cols] {
			binary.LittleEndian.PutUint32(raw[4*c:], math.Float32bits(v))
		}
	}
	packed := s.packed[:k.cpu.GroupBytes(x.cols)]
	k.cpu.Pack(packed, s.raw[:4*n*x.cols], n, x.cols)
	x.each(func(at, width int) {
		k.multiply(packed, x.data[4*at*x.cols:][:4*width*x.cols], s.out[:], x.cols, 1, quant.Lanes, width)
		for i := range width {
			put(at+i, s.out[i*quant.Lanes:][:n])
		}
	})
}

// parallel calls f for 0 to tasks-1, each worker with memory of its own.
func (k *kernel) parallel(tasks int, f func(s *scratch, task int)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(k.workers, tasks) {
		workers.Go(func() {
			var s scratch
			for i := int(next.Add(1)); i <= tasks; i = int(next.Add(1)) {
				f(&s, i-1)
			}
		})
	}
	workers.Wait()
}

// apply computes w·x + bias of every row.
func (k *kernel) apply(x tiled, d dense) []float32 {
	out := make([]float32, x.rows*d.rows)
	k.parallel((d.rows+quant.Lanes-1)/quant.Lanes, func(s *scratch, g int) {
		first := g * quant.Lanes
		k.group(s, x, first, d.rows, d.row, func(row int, values []float32) {
			dst := out[row*d.rows+first:]
			if d.bias == nil {
				copy(dst, values)
				return
			}
			for i, v := range values {
				dst[i] = v + d.bias[first+i]
			}
		})
	})
	return out
}

// dense is a linear layer whose weights stay as they are stored.
type dense struct {
	rows, cols int
	format     quant.Format
	data       []byte
	bias       []float32 // nil is none
}

// row decodes a row of weights.
func (d dense) row(dst []float32, i int) {
	bytes := len(d.data) / d.rows
	d.format.Decode(dst, d.data[i*bytes:][:bytes])
}
