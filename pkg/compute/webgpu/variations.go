//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import "github.com/shoal-llm/shoal/pkg/compute"

// lacks is what models may need that the device has no kernels for: they are refused
// before they are loaded.
const lacks = compute.FeatureLowRank

// Scale multiplies the batch's rows.
func (p *pass) Scale(x compute.Buffer, factor float32) {
	p.each("scale", scaleOp, x.(*buffer), p.batch.Rows, factor)
}

// SoftCap takes the first rows, which may be those of a head.
func (p *pass) SoftCap(x compute.Buffer, rows int, limit float32) {
	p.each("soft cap", capOp, x.(*buffer), rows, limit)
}

// each records an operation on every value of some rows.
func (p *pass) each(name string, op *op, x *buffer, rows int, factor float32) {
	p.settle()
	holds(name, x, rows, x.cols)
	p.dispatch(kernel{op: op}, words(bits(factor), 0, 0, 0).shapes(x), tiles(x.cols, 64), rows, 1, x.buffer)
}

// mostBiases is the number of buffers that one dispatch adds vectors to.
const mostBiases = 3

// AddBias takes up to three buffers at a time.
func (p *pass) AddBias(xs []compute.Buffer, biases []compute.Vector) {
	p.settle()
	if len(xs) != len(biases) {
		fail("bias: %d buffers and %d vectors", len(xs), len(biases))
	}
	for len(xs) > mostBiases {
		p.addBiases(xs[:mostBiases], biases[:mostBiases])
		xs, biases = xs[mostBiases:], biases[mostBiases:]
	}
	if len(xs) > 0 {
		p.addBiases(xs, biases)
	}
}

func (p *pass) addBiases(xs []compute.Buffer, biases []compute.Vector) {
	var rows, vectors [mostBiases]*buffer
	var ends [mostBiases]int
	end := 0
	for i := range rows {
		j := min(i, len(xs)-1)
		rows[i], vectors[i] = xs[j].(*buffer), biases[j].(*vector).row()
		if i == j {
			holds("bias", rows[i], p.batch.Rows, vectors[i].cols)
			end += rows[i].cols
		}
		ends[i] = end
	}
	p.dispatch(kernel{op: biasOp}, words(ends[0], ends[1], ends[2], 0).shapes(rows[:]...).shapes(vectors[:]...), tiles(end, 64), p.batch.Rows, 1,
		vectors[0].buffer, vectors[1].buffer, vectors[2].buffer, rows[0].buffer, rows[1].buffer, rows[2].buffer)
}

// NormHeads takes two buffers at a time if their heads are of one length.
func (p *pass) NormHeads(xs []compute.Buffer, gains []compute.Vector, eps float32) {
	p.settle()
	if len(xs) != len(gains) {
		fail("norm heads: %d buffers and %d gains", len(xs), len(gains))
	}
	for len(xs) > 0 {
		n := 1
		if len(xs) > 1 && gains[0].Len() == gains[1].Len() {
			n = 2
		}
		p.normHeads(xs[:n], gains[:n], eps)
		xs, gains = xs[n:], gains[n:]
	}
}

func (p *pass) normHeads(xs []compute.Buffer, gains []compute.Vector, eps float32) {
	dim, last := gains[0].Len(), len(xs)-1
	heads := 0
	for _, x := range xs {
		b := x.(*buffer)
		holds("norm heads", b, p.batch.Rows, b.cols)
		if b.cols%dim != 0 {
			fail("norm heads: heads of %d in rows of %d", dim, b.cols)
		}
		heads += b.cols / dim
	}
	x0, x1, g0, g1 := xs[0].(*buffer), xs[last].(*buffer), gains[0].(*vector).row(), gains[last].(*vector).row()
	p.dispatch(kernel{op: normHeadsOp, dim: dim}, words(x0.cols/dim, bits(eps), 0, 0).shapes(x0, x1, g0, g1), heads, p.batch.Rows, 1,
		g0.buffer, g1.buffer, x0.buffer, x1.buffer)
}

// Linear is a product without a norm.
func (p *pass) Linear(dst compute.Buffer, m compute.Weight, y compute.Buffer) {
	p.settle()
	w, out := m.(*weight), dst.(*buffer)
	product := &product{vec: matvecOp, mat: matmulOp, x: y.(*buffer), rows: p.batch.Rows}
	holds("linear", product.x, p.batch.Rows, w.cols)
	product.check("linear", w, out)
	out.linear = false
	p.store(product, w, out)
}

// NormAdd leaves a row alone whose squares are not finite.
func (p *pass) NormAdd(x, y compute.Buffer, gain compute.Vector, eps float32) {
	p.settle()
	to, from, g := x.(*buffer), y.(*buffer), gain.(*vector).row()
	holds("norm add", from, p.batch.Rows, g.cols)
	holds("norm add", to, p.batch.Rows, g.cols)
	p.dispatch(kernel{op: normAddOp}, words(bits(eps), 0, 0, 0).shapes(to, from, g), p.batch.Rows, 1, 1, from.buffer, g.buffer, to.buffer)
}

// AddLowRank is not there: models with adapters are refused before they are loaded.
func (p *pass) AddLowRank([]compute.Buffer, compute.Buffer, compute.Vector, float32, [][]*compute.LowRank) {
	fail("low-rank adapters: the device has no kernels for them")
}

// AdaptedGateUp is not there either.
func (p *pass) AdaptedGateUp(_, _ compute.Buffer, _ compute.Vector, _ float32, _ []compute.Weight, _ compute.Activation, _ []compute.Buffer, _ [][]*compute.LowRank) {
	fail("low-rank adapters: the device has no kernels for them")
}
