//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"slices"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
)

// together reports whether weights are rows of one store, one after the other. If
// they could be, it moves them there: the first time that they are multiplied
// together, and while no other pass may use them.
func (p *pass) together(ws []*weight) bool {
	first := ws[0]
	rows := 0
	for _, w := range ws {
		if w.format.Name != first.format.Name || w.cols != first.cols || len(w.parts) != 1 {
			return false
		}
		rows += w.rows
	}
	if adjacent(ws) {
		return true
	}
	fits := uint64(16*rows*first.format.GPU.Vectors*first.geometry.segments) <= p.be.dev.Limits.Binding
	alone := !slices.ContainsFunc(ws, func(w *weight) bool { return w.parts[0].store.rows != w.rows })
	if !fits || !alone || p.err != nil || p.commands.Len() > 0 && p.uses(ws) || p.be.unfinished.Load() > 1 {
		return false
	}
	if err := p.be.gather(ws, rows); err != nil {
		p.be.log.Warn("weights stay apart", "rows", rows, "error", err)
		return false
	}
	return true
}

// adjacent reports whether weights follow each other in one store.
func adjacent(ws []*weight) bool {
	at := ws[0].parts[0]
	for _, w := range ws {
		if w.parts[0].store != at.store || w.parts[0].first != at.first {
			return false
		}
		at.first += w.rows
	}
	return true
}

// uses reports whether the pass has recorded one of the weights.
func (p *pass) uses(ws []*weight) bool {
	return slices.ContainsFunc(ws, func(w *weight) bool { return w.used == p.number })
}

// gather moves weights into one store, which the arenas of all of them hold. The
// device must not be using them.
func (b *Backend) gather(ws []*weight, rows int) error {
	s, err := b.newStore(ws[0], rows)
	if err != nil {
		return err
	}
	gpu, segments := ws[0].format.GPU, ws[0].geometry.segments
	row, word := uint64(16*gpu.Vectors*segments), uint64(4*gpu.Words*segments)
	super := uint64(4 * (segments / 4))
	var c device.Commands
	at := 0
	for _, w := range ws {
		old, n := w.parts[0].store, uint64(w.rows)
		c.Copy(s.vectors, uint64(at)*row, old.vectors, 0, n*row)
		if word > 0 {
			c.Copy(s.words, uint64(at)*word, old.words, 0, n*word)
		}
		if gpu.Super {
			c.Copy(s.words, uint64(4*s.supers)+uint64(at)*super, old.words, uint64(4*old.supers), n*super)
		}
		at += w.rows
	}
	b.submit(&c)
	b.dev.Poll(true)
	at = 0
	for _, w := range ws {
		old := w.parts[0].store
		w.arena.hold(s, w.arena.stores[old])
		w.arena.leave(old)
		w.parts = []part{{store: s, first: at, rows: w.rows}}
		at += w.rows
	}
	return b.dev.Err()
}

// triple is products with q, k and v that are recorded but for what follows them.
type triple struct {
	m       *product
	weights []*weight
	outs    []*buffer
}

// ropeBuffers is the number of storage buffers of products with a rope.
const ropeBuffers = 11

// fits reports whether a rope of these can be done with the products.
func (t *triple) fits(limits device.Limits, q, k, v *buffer, spec compute.CacheSpec) bool {
	return limits.Storage >= ropeBuffers && t.outs[0] == q && t.outs[1] == k && t.outs[2] == v && t.m.rows <= matvecRows && spec.HeadDim%2 == 0 &&
		q != k && k != v && q != v
}

// multiplyTriple records the products.
func (p *pass) multiplyTriple(t *triple) {
	first, second := t.weights[0].rows, t.weights[1].rows
	whole := part{t.weights[0].parts[0].store, t.weights[0].parts[0].first, first + second + t.weights[2].rows}
	p.normed(t.m)
	p.multiply(t.m, t.weights[0], whole, 0, [2]int{first, first + second}, t.outs)
}

// tripleRope records the products with the rope that follows them.
func (p *pass) tripleRope(t *triple, pairs, neox int, c *cache, angles, layer *device.Buffer) {
	t.m.vec = matvecRopeOp
	t.m.dim, t.m.pairs, t.m.neox, t.m.apart = c.spec.HeadDim, pairs, neox, c.packed()
	t.m.more = []*device.Buffer{angles, layer}
	p.multiplyTriple(t)
}

// settle records products that wait.
func (p *pass) settle() {
	if t := p.waiting; t != nil {
		p.waiting = nil
		p.multiplyTriple(t)
	}
}
