//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
)

// mostExperts bounds the experts of a mixture: the router's kernel has a bit for each.
const mostExperts = 256

// AddExperts multiplies each row with the experts that a kernel chooses for it. A place
// is one row at one expert; places of a row lie side by side, by ascending expert.
func (p *pass) AddExperts(x compute.Buffer, gain compute.Vector, eps float32, e *compute.Experts) {
	dst, scores, inner, out := x.(*buffer), e.Scores.(*buffer), e.Inner.(*buffer), e.Out.(*buffer)
	gate, up, down := e.Gate.(*weight), e.Up.(*weight), e.Down.(*weight)
	rows := p.batch.Rows
	places := rows * e.Used
	if e.Used < 1 || e.Used > e.Count || e.Count > mostExperts || e.Act > compute.GELUTanh {
		fail("experts: %d of %d, activation %d", e.Used, e.Count, e.Act)
	}
	if gate.cols != dst.cols || up.cols != dst.cols || down.cols != inner.cols ||
		gate.rows != e.Count*inner.cols || up.rows != gate.rows || down.rows != e.Count*dst.cols {
		fail("experts: %d × %d and %d × %d to %d × %d for rows of %d", gate.rows, gate.cols, up.rows, up.cols, down.rows, down.cols, dst.cols)
	}
	holds("experts", scores, rows, e.Count)
	holds("experts", inner, places, inner.cols)
	holds("experts", out, places, dst.cols)
	p.NormLinear([]compute.Buffer{scores}, x, gain, eps, []compute.Weight{e.Router})
	if rows == 0 {
		return
	}
	routes := p.room(routeScratch, 4*2*uint64(places))
	p.dispatch(kernel{op: routeOp}, words(rows, e.Count, e.Used, 0).shapes(scores), tiles(rows, 64), 1, 1, scores.buffer, routes)
	size := 4 * uint64(places) * uint64(inner.stride())
	inner.linear, out.linear = false, false
	first, second := *inner, *inner
	first.buffer, second.buffer = p.room(gateScratch, size), p.room(upScratch, size)
	m := p.norm(expertOp, nil, x, gain, eps)
	m.list = p.placeRows(e.Used)
	p.multiplyExperts(m, gate, inner.cols, &first, routes, places)
	p.multiplyExperts(m, up, inner.cols, &second, routes, places)
	p.dispatch(kernel{op: activateOp}, words(int(e.Act), 0, 0, 0).shapes(&first, &second, inner),
		tiles(inner.cols, 64), places, 1, first.buffer, second.buffer, inner.buffer)
	p.multiplyExperts(&product{vec: expertOp, x: inner}, down, dst.cols, out, routes, places)
	p.dispatch(kernel{op: expertsOp}, words(e.Used, 0, 0, 0).shapes(dst, out), tiles(dst.cols, 64), rows, 1, out.buffer, routes, dst.buffer)
}

// placeRows returns 1 + the number of a list of each place's row, which the mixtures of
// a pass share.
func (p *pass) placeRows(used int) int {
	if p.placesOf != used {
		number, to := p.list(p.batch.Rows * used)
		for i := range to {
			to[i] = uint32(i / used)
		}
		p.placesOf, p.places = used, number+1
	}
	return p.places
}

// multiplyExperts records the products of each place's row with rows rows of its expert.
func (p *pass) multiplyExperts(m *product, w *weight, rows int, out *buffer, routes *device.Buffer, places int) {
	w.used = p.number
	gain := p.be.nothing
	if m.gain != nil {
		gain = m.gain.buffer
	}
	s := shapeOf(w.geometry, rows)
	k := kernel{op: m.vec, format: w.format.GGML, segments: w.geometry.segments, norm: m.gain != nil, groups: s.Groups, rows: s.Rows, steps: s.Steps}
	offset := 0
	for _, part := range w.parts {
		block := words(part.store.supers, part.first, rows, offset, part.rows, 0, m.list, 0,
			bits(m.eps), bits(float32(m.x.cols)), 0, 0, 0, 0, 0, 0).shapes(m.x, out, out, out)
		p.noteProduct(w, rows, places)
		p.dispatch(k, block, tiles(rows, s.slots()), places, 1,
			part.store.vectors, part.store.words, m.x.buffer, gain, out.buffer, out.buffer, out.buffer, routes)
		offset += part.rows
	}
}
