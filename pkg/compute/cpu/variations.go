package cpu

import (
	"math"
	"sync/atomic"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// Scale scales rows in place.
func (p *pass) Scale(x compute.Buffer, factor float32) {
	b := x.(*buffer)
	holds("scale", b, p.batch.Rows, b.cols)
	p.add(step{kind: scaleRow, dst: b, scale: factor, tasks: p.batch.Rows})
}

// varied is a buffer with a vector for its rows, or for heads of them.
type varied struct {
	rows   *buffer
	values *vector
}

// vary lists buffers with vectors.
func (p *pass) vary(xs []compute.Buffer, vs []compute.Vector) list {
	if len(xs) != len(vs) {
		fail("%d buffers with %d vectors", len(xs), len(vs))
	}
	from := len(p.varied)
	for i, x := range xs {
		p.varied = append(p.varied, varied{x.(*buffer), vs[i].(*vector)})
	}
	return list{from, len(p.varied)}
}

// AddBias adds vectors to each row.
func (p *pass) AddBias(xs []compute.Buffer, biases []compute.Vector) {
	all := p.vary(xs, biases)
	for _, v := range p.varied[all.from:all.to] {
		holds("add bias", v.rows, p.batch.Rows, v.values.n)
	}
	p.add(step{kind: biasRow, varied: all, tasks: p.batch.Rows})
}

// NormHeads normalises each head of each row.
func (p *pass) NormHeads(xs []compute.Buffer, gains []compute.Vector, eps float32) {
	all := p.vary(xs, gains)
	for _, v := range p.varied[all.from:all.to] {
		holds("norm heads", v.rows, p.batch.Rows, v.rows.cols)
		if v.values.n%quant.Lanes != 0 || v.rows.cols%v.values.n != 0 {
			fail("norm heads: heads of %d in rows of %d", v.values.n, v.rows.cols)
		}
	}
	p.add(step{kind: normHeads, varied: all, eps: eps, tasks: p.batch.Rows})
}

// Linear is a product of rows as they are.
func (p *pass) Linear(dst compute.Buffer, m compute.Weight, y compute.Buffer) {
	src, w := y.(*buffer), m.(*weight)
	holds("linear", src, p.batch.Rows, w.cols)
	tile := step{kind: tileRows, src: src, tiles: p.rows}
	multiply := step{kind: product, tiles: p.rows, products: list{from: len(p.products)}}
	p.mul(&tile, &multiply, dst.(*buffer), w)
	p.addProduct(tile, multiply)
}

// NormAdd adds normalised rows.
func (p *pass) NormAdd(x, y compute.Buffer, gain compute.Vector, eps float32) {
	dst, src, v := x.(*buffer), y.(*buffer), gain.(*vector)
	holds("norm add", dst, p.batch.Rows, v.n)
	holds("norm add", src, p.batch.Rows, v.n)
	p.need.cols = max(p.need.cols, src.stride)
	p.add(step{kind: normAdd, dst: dst, src: src, gain: v, eps: eps, tasks: p.batch.Rows})
}

// SoftCap caps rows in place.
func (p *pass) SoftCap(x compute.Buffer, rows int, limit float32) {
	b := x.(*buffer)
	holds("soft cap", b, rows, b.cols)
	if !(limit > 0) {
		fail("soft cap: limit %g", limit)
	}
	p.need.cols = max(p.need.cols, b.stride)
	p.add(step{kind: capRow, dst: b, scale: limit, tasks: rows})
}

// vary runs a task of an operation on one row.
func (w *worker) vary(p *pass, s *step, task int) {
	switch s.kind {
	case scaleRow:
		row := s.dst.row(task)
		for i, v := range row {
			row[i] = float32(v * s.scale)
		}
	case biasRow:
		for _, v := range p.varied[s.varied.from:s.varied.to] {
			w.be.ops.Add(v.rows.row(task), v.values.data)
		}
	case normHeads:
		for _, v := range p.varied[s.varied.from:s.varied.to] {
			row, n := v.rows.row(task), v.values.n
			for at := 0; at < v.rows.cols; at += n {
				w.normTo(p, row[at:at+n], row[at:at+n], v.values, s.eps, task)
			}
		}
	case normAdd:
		x := w.scratch.row[:s.src.stride]
		w.normTo(p, x, s.src.row(task), s.gain, s.eps, task)
		w.be.ops.Add(s.dst.row(task), x)
	case capRow:
		w.capRow(s.dst.row(task), s.scale)
	}
}

// normTo writes the normalised values of src to dst, which may be src. Values
// whose sum of squares is not finite mark the row and become zeros.
func (w *worker) normTo(p *pass, dst, src []float32, gain *vector, eps float32, row int) {
	sum, exact := w.be.ops.SumSq(src), 0.0
	if w.be.reference {
		for _, v := range src {
			exact += float64(float64(v) * float64(v))
		}
		sum = float32(exact)
	}
	if math.Float32bits(sum)>>23&0xFF == 0xFF {
		atomic.StoreUint32(&p.bad[row], 1)
		clear(dst)
		return
	}
	if w.be.reference {
		scale := 1 / math.Sqrt(exact/float64(gain.n)+float64(eps))
		for i, v := range src {
			dst[i] = float32(float64(float64(v)*scale) * float64(gain.data[i]))
		}
		return
	}
	mean := sum / float32(gain.n)
	w.be.ops.Norm(dst, src, gain.data, 1/float32(math.Sqrt(float64(mean+eps))))
}

// capRow writes limit·tanh(v/limit), by the steps of the capped scores of
// attention: with y = v/limit it is limit·(1 − 2/(exp(y+y) + 1)).
func (w *worker) capRow(row []float32, limit float32) {
	if w.be.reference {
		for i, v := range row {
			row[i] = float32(float64(limit) * math.Tanh(float64(v)/float64(limit)))
		}
		return
	}
	x := w.scratch.row[:len(row)]
	for i, v := range row {
		y := v / limit
		x[i] = y + y
	}
	w.be.ops.Exp(x, x)
	for i, e := range x {
		row[i] = float32(limit * (1 - 2/(e+1)))
	}
}
