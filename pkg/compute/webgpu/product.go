//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
)

// product is rows of weights times rows of activations.
type product struct {
	vec, mat *op
	x        *buffer
	gain     *vector // nil without a norm
	eps      float32
	act      compute.Activation
	list     int // 1 + the number of a list of rows of x, 0 for the batch's
	rows     int // of activations

	dim, pairs, neox int              // of a rope that is done with it
	apart            bool             // of the same: keys and values are not stored with it
	more             []*device.Buffer // bindings of the same
}

// matvecRows is the number of rows up to which a product goes row by row: a tile of
// 64 rows takes as long for one row as for all, which on a large device is as long
// as this many rows one by one.
const matvecRows = 24

// multiply records a product of a part of a weight. Outputs are rows of the part,
// from offset on: below end0 of outs[0], below end1 of outs[1], else of outs[2].
func (p *pass) multiply(m *product, w *weight, part part, offset int, ends [2]int, outs []*buffer) {
	g := w.geometry
	w.used = p.number
	if m.rows == 0 {
		return
	}
	for len(outs) < 3 {
		outs = append(outs, outs[0])
	}
	x, gain := m.x.buffer, p.be.nothing
	if m.gain != nil {
		gain = m.gain.buffer
	}
	for _, o := range outs {
		if o == m.x {
			x = p.copied(m.x)
			break
		}
	}
	block := words(part.store.supers, part.first, part.rows, offset, ends[0], ends[1], m.list, int(m.act),
		bits(m.eps), bits(float32(m.x.cols)), m.dim, m.pairs, m.neox, 0, 0, 0).shapes(m.x, outs[0], outs[1], outs[2])
	p.noteProduct(w, part.rows, m.rows)
	k := kernel{op: m.vec, format: w.format.GGML, segments: g.segments, norm: m.gain != nil}
	buffers := append(p.buffers[:0], part.store.vectors, part.store.words, x, gain, outs[0].buffer, outs[1].buffer, outs[2].buffer)
	if m.rows <= matvecRows {
		s := p.shapeFor(w, part)
		if m.vec == matvecRopeOp && s.slots() > 2*s.Groups*g.lanes {
			s.Steps = 1 // a thread for each two outputs
		}
		k.groups, k.rows, k.steps, k.dim, k.apart = s.Groups, s.Rows, s.Steps, m.dim, m.apart
		p.dispatch(k, block, tiles(part.rows, s.slots()), m.rows, 1, append(buffers, m.more...)...)
		return
	}
	k.op = m.mat
	if m.mat == matmulGateOp {
		k.act = int(m.act)
	}
	p.dispatch(k, block, tiles(part.rows, 128), tiles(m.rows, 64), 1, append(buffers, p.factors(m))...)
}

// shape is the workgroup of a matvec: groups of lanes, that take so many rows at a
// time so many times. It changes no bit.
type shape struct {
	Groups int `json:"groups"`
	Rows   int `json:"rows"`
	Steps  int `json:"steps"`
}

// slots returns the outputs of a workgroup.
func (s shape) slots() int { return s.Groups * s.Rows * s.Steps }

// shapeOf returns a shape that is good for most devices: small workgroups that each
// do much, as long as there are enough of them.
func shapeOf(g geometry, rows int) shape {
	const enough = 384 // workgroups for a large device
	if g.lanes > 128 {
		if rows >= 8*enough {
			return shape{Groups: 2, Rows: 4, Steps: 1}
		}
		return shape{Groups: 1, Rows: 2, Steps: 1}
	}
	small, large := max(1, 128/g.lanes), max(1, 256/g.lanes)
	switch {
	case rows >= 8*small*enough:
		return shape{Groups: small, Rows: 2, Steps: 4}
	case rows >= 2*large*enough:
		return shape{Groups: large, Rows: 2, Steps: 1}
	}
	return shape{Groups: small, Rows: 2, Steps: 1}
}

// factors records the norm's factors of a product's rows.
func (p *pass) factors(m *product) *device.Buffer {
	return p.room(factorScratch, uint64(4*m.rows))
}

// normed records the norm's factors, where a product of many rows wants them.
func (p *pass) normed(m *product) {
	if m.gain == nil || m.rows <= matvecRows || m.rows == 0 {
		return
	}
	segments := m.x.segments
	p.dispatch(kernel{op: squaresOp, segments: segments},
		words(bits(m.eps), bits(float32(m.x.cols)), m.list, 0).shapes(m.x), m.rows, 1, 1, m.x.buffer, p.factors(m))
}

// check panics unless a weight fits the product's input and output.
func (m *product) check(op string, w *weight, out *buffer) {
	if w.cols != m.x.cols {
		fail("%s: a weight of %d × %d with rows of %d", op, w.rows, w.cols, m.x.cols)
	}
	holds(op, out, m.rows, w.rows)
}

// store records out = w·x for one weight.
func (p *pass) store(m *product, w *weight, out *buffer) {
	offset := 0
	for _, part := range w.parts {
		p.multiply(m, w, part, offset, [2]int{w.rows, w.rows}, []*buffer{out})
		offset += part.rows
	}
}

// NormLinear computes all products with the rows' factor after the sum. Three
// weights of one format are multiplied together, and wait for a rope that may be
// done with them.
func (p *pass) NormLinear(dst []compute.Buffer, x compute.Buffer, gain compute.Vector, eps float32, ws []compute.Weight) {
	p.settle()
	if len(dst) != len(ws) {
		fail("norm linear: %d buffers for %d weights", len(dst), len(ws))
	}
	m := p.norm(matvecOp, matmulOp, x, gain, eps)
	var weights []*weight
	var outs []*buffer
	for i := range ws {
		outs, weights = append(outs, dst[i].(*buffer)), append(weights, ws[i].(*weight))
		m.check("norm linear", weights[i], outs[i])
		outs[i].linear = false
	}
	if len(ws) == 3 && p.together(weights) {
		p.waiting = &triple{m, weights, outs}
		return
	}
	p.normed(m)
	for i, w := range weights {
		p.store(m, w, outs[i])
	}
}

// norm is a product with normed rows of the batch.
func (p *pass) norm(vec, mat *op, x compute.Buffer, gain compute.Vector, eps float32) *product {
	src, g := x.(*buffer), gain.(*vector)
	holds("norm", src, p.batch.Rows, g.n)
	return &product{vec: vec, mat: mat, x: src, gain: g, eps: eps, rows: p.batch.Rows}
}

// LinearAdd adds the product where it is stored.
func (p *pass) LinearAdd(x compute.Buffer, m compute.Weight, y compute.Buffer) {
	p.settle()
	w, out := m.(*weight), x.(*buffer)
	product := &product{vec: matvecAddOp, mat: matmulAddOp, x: y.(*buffer), rows: p.batch.Rows}
	holds("linear add", product.x, p.batch.Rows, w.cols)
	product.check("linear add", w, out)
	p.store(product, w, out)
}

// NormGateUp multiplies gate and up together where they are stored so.
func (p *pass) NormGateUp(dst, x compute.Buffer, gain compute.Vector, eps float32, gate, up compute.Weight, act compute.Activation) {
	p.settle()
	g, u, out := gate.(*weight), up.(*weight), dst.(*buffer)
	if g.rows != u.rows || g.cols != u.cols || act > compute.GELUTanh {
		fail("norm gate up: a gate of %d × %d with %d × %d, activation %d", g.rows, g.cols, u.rows, u.cols, act)
	}
	m := p.norm(matvecOp, matmulOp, x, gain, eps)
	m.check("norm gate up", g, out)
	p.normed(m)
	out.linear = false
	if p.together([]*weight{g, u}) {
		m.vec, m.mat, m.act = matvecGateOp, matmulGateOp, act
		both := part{g.parts[0].store, g.parts[0].first, 2 * g.rows}
		p.multiply(m, g, both, 0, [2]int{out.cols, out.cols}, []*buffer{out})
		return
	}
	size := 4 * uint64(p.batch.Rows) * uint64(out.stride())
	first, second := *out, *out
	first.buffer, second.buffer = p.room(gateScratch, size), p.room(upScratch, size)
	p.store(m, g, &first)
	p.store(m, u, &second)
	p.dispatch(kernel{op: activateOp}, words(int(act), 0, 0, 0).shapes(&first, &second, out),
		tiles(out.cols, 64), p.batch.Rows, 1, first.buffer, second.buffer, out.buffer)
}

// Head is a norm and a product of some rows. Its output is linear: it is read back.
func (p *pass) Head(dst, x compute.Buffer, rows []int32, gain compute.Vector, eps float32, m compute.Weight) {
	p.settle()
	if len(rows) == 0 {
		return
	}
	product := p.norm(matvecOp, matmulOp, x, gain, eps)
	number, to := p.list(len(rows))
	for i, row := range rows {
		if row < 0 || int(row) >= p.batch.Rows {
			fail("head: row %d of %d", row, p.batch.Rows)
		}
		to[i] = uint32(row)
	}
	product.list, product.rows = number+1, len(rows)
	w, out := m.(*weight), dst.(*buffer)
	product.check("head", w, out)
	p.normed(product)
	out.linear = true
	p.store(product, w, out)
}
