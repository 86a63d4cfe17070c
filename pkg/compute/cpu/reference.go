package cpu

import (
	"math"
	"sync/atomic"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// referenceTile writes row i of the shared activations in float64: a row of src,
// or zeros for a negative row.
func (w *worker) referenceTile(p *pass, s *step, i, row int) {
	cols := s.src.cols
	out := w.gang.tiles.float64[i*cols : (i+1)*cols]
	clear(out)
	if row < 0 {
		return
	}
	for c, v := range s.src.row(row)[:cols] {
		out[c] = float64(v)
	}
	if s.norm && !w.referenceNorm(p, s, out, row) {
		clear(out)
	}
}

// referenceNorm normalises the values x of a row. It marks a row that is not finite,
// and reports whether it is.
func (w *worker) referenceNorm(p *pass, s *step, x []float64, row int) bool {
	var sum float64
	for _, v := range x {
		sum += float64(v * v)
	}
	if sum = float64(float32(sum)); math.IsNaN(sum) || math.IsInf(sum, 0) {
		atomic.StoreUint32(&p.bad[row], 1)
		return false
	}
	scale := 1 / math.Sqrt(sum/float64(len(x))+float64(s.eps))
	for c, g := range s.gain.data[:len(x)] {
		x[c] = float64(float64(x[c]*scale) * float64(g))
	}
	return true
}

// referenceProduct computes some groups of rows of a weight for all rows of the
// step, decoding each row of weights once.
func (w *worker) referenceProduct(p *pass, s *step, t *productTask, group, groups int) {
	rows := p.stepRows(s)
	cols := t.weight.cols
	for r := group * quant.Lanes; r < min((group+groups)*quant.Lanes, t.weight.rows); r++ {
		weights := w.referenceRow(t.weight, r, w.scratch.exact)
		var ups []float64
		if t.up != nil {
			ups = w.referenceRow(t.up, r, w.scratch.exact[cols:])
		}
		for i := range rows {
			x := w.gang.tiles.float64[i*cols : (i+1)*cols]
			v := dot64(weights, x)
			dst := &t.dst.row(i)[r]
			switch s.kind {
			case product:
				*dst = float32(v)
			case productAdd:
				*dst = float32(float64(*dst) + v)
			case productGate:
				*dst = float32(activation64(s.act, v) * dot64(ups, x))
			}
		}
	}
}

// referenceRow decodes a row of weights.
func (w *worker) referenceRow(m *weight, row int, room []float64) []float64 {
	m.decodeRow(w.scratch.row, row)
	room = room[:m.cols]
	for c, v := range w.scratch.row[:m.cols] {
		room[c] = float64(v)
	}
	return room
}

// dot64 adds products of column i to partial sum i mod 4.
func dot64(a, b []float64) float64 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float64
	for len(a) >= 4 && len(b) >= 4 {
		s0 += float64(a[0] * b[0])
		s1 += float64(a[1] * b[1])
		s2 += float64(a[2] * b[2])
		s3 += float64(a[3] * b[3])
		a, b = a[4:], b[4:]
	}
	for i, v := range a {
		s0 += float64(v * b[i])
	}
	return (s0 + s1) + (s2 + s3)
}

func activation64(act compute.Activation, x float64) float64 {
	if act == compute.GELUTanh {
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	}
	return x / (1 + math.Exp(-x))
}

// referenceAttend is the plain softmax of each query row of a tile.
func (w *worker) referenceAttend(p *pass, s *step, task int) {
	tile := p.queries[s.queries.from+task]
	span := &p.batch.Spans[tile.span]
	dim, group := s.cache.spec.HeadDim, s.heads/s.cache.spec.KVHeads
	for r := range tile.count {
		position := span.Start + (tile.first+r)/group
		first := firstKey(position, s.window)
		weights := w.scratch.exact[:position-first+1]
		q := tile.of(s.src, span, r, group, dim)
		largest := math.Inf(-1)
		for i := range weights {
			key := first + i
			keys := s.cache.keys(s.layer, s.cache.form(span, position/compute.PageTokens, key/compute.PageTokens), tile.head, nil)[key%compute.PageTokens:]
			var sum float64
			for d, v := range q {
				sum += float64(float64(v) * float64(keys[d*compute.PageTokens]))
			}
			sum *= float64(s.scale)
			if s.softCap != 0 {
				sum = float64(s.softCap) * math.Tanh(sum/float64(s.softCap))
			}
			weights[i] = sum
			largest = max(largest, sum)
		}
		referenceMix(tile.of(s.dst, span, r, group, dim), weights, largest, func(i int) []float32 {
			key := first + i
			return s.cache.values(s.layer, s.cache.form(span, position/compute.PageTokens, key/compute.PageTokens), tile.head, nil)[key%compute.PageTokens*dim:][:dim]
		})
	}
}

// referenceMix writes the softmax-weighted mean of values to dst.
func referenceMix(dst []float32, scores []float64, largest float64, value func(i int) []float32) {
	var total float64
	mixed := make([]float64, len(dst))
	for i, score := range scores {
		weight := math.Exp(score - largest)
		total += weight
		for d, v := range value(i) {
			mixed[d] += float64(weight * float64(v))
		}
	}
	for d, v := range mixed {
		dst[d] = float32(v / total)
	}
}
