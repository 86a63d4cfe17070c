//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"encoding/binary"
	"math"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
)

// holds panics unless b has room for rows rows of cols.
func holds(op string, b *buffer, rows, cols int) {
	if b.cols != cols || b.rows < rows {
		fail("%s: a buffer of %d rows of %d for %d of %d", op, b.rows, b.cols, rows, cols)
	}
}

// block is the parameters of a dispatch: words, and shapes behind them.
type block struct {
	words [40]uint32
	n     int
}

// words returns a block of words, a multiple of 4 of them.
func words(v ...int) block {
	var b block
	for _, w := range v {
		b.words[b.n] = uint32(w)
		b.n++
	}
	return b
}

// shapes appends the shapes of buffers.
func (b block) shapes(buffers ...*buffer) block {
	for _, x := range buffers {
		s := x.shape()
		b.n += copy(b.words[b.n:], s[:])
	}
	return b
}

// bits returns the bits of a float32 as a word.
func bits(v float32) int { return int(math.Float32bits(v)) }

// tiles returns how many tiles of size cover n.
func tiles(n, size int) int { return (n + size - 1) / size }

// ClearPages zeroes pages in all layers before the other operations.
func (p *pass) ClearPages(c compute.Cache, pages []int32) {
	cache := c.(*cache)
	from, held, size := cache.written()
	for _, page := range pages {
		if page < 0 || int(page) >= held {
			fail("clear page %d of %d", page, held)
		}
		for _, layer := range cache.layers {
			p.clears.Clear(layer, from+uint64(page)*size, size)
		}
	}
}

// Write copies rows into the batch at once; dst gets them when the pass runs.
func (p *pass) Write(dst compute.Buffer, rows []byte) {
	p.settle()
	b := dst.(*buffer)
	holds("write", b, p.batch.Rows, b.cols)
	if len(rows) != 4*p.batch.Rows*b.cols {
		fail("write: %d bytes for %d rows of %d", len(rows), p.batch.Rows, b.cols)
	}
	number, to := p.list(p.batch.Rows * b.cols)
	for i := range to {
		to[i] = binary.LittleEndian.Uint32(rows[4*i:])
	}
	b.linear = false
	p.dispatch(kernel{op: writeOp}, words(number, 0, 0, 0).shapes(b), tiles(b.cols, 64), p.batch.Rows, 1, b.buffer)
}

// Overwrite copies rows into the batch at once, behind where they go.
func (p *pass) Overwrite(dst compute.Buffer, at []int32, rows []byte) {
	p.settle()
	b := dst.(*buffer)
	holds("overwrite", b, p.batch.Rows, b.cols)
	if len(rows) != 4*len(at)*b.cols {
		fail("overwrite: %d bytes for %d rows of %d", len(rows), len(at), b.cols)
	}
	if len(at) == 0 {
		return
	}
	number, to := p.list(len(at) + len(at)*b.cols)
	for i, row := range at {
		if row < 0 || int(row) >= p.batch.Rows {
			fail("overwrite: row %d of %d", row, p.batch.Rows)
		}
		to[i] = uint32(row)
	}
	for i := range to[len(at):] {
		to[len(at)+i] = binary.LittleEndian.Uint32(rows[4*i:])
	}
	b.linear = false
	p.dispatch(kernel{op: overwriteOp}, words(number, len(at), 0, 0).shapes(b), tiles(b.cols, 64), len(at), 1, b.buffer)
}

// Embed looks rows up in the same bytes that a tied head multiplies.
func (p *pass) Embed(dst compute.Buffer, table compute.Weight, ids []int32) {
	p.settle()
	b, w := dst.(*buffer), table.(*weight)
	holds("embed", b, p.batch.Rows, w.cols)
	if len(ids) != p.batch.Rows {
		fail("embed: %d ids for %d rows", len(ids), p.batch.Rows)
	}
	number, to := p.list(len(ids))
	for i, id := range ids {
		if id < 0 || int(id) >= w.rows {
			fail("embed: id %d of %d", id, w.rows)
		}
		to[i] = uint32(id)
	}
	b.linear = false
	first := 0
	for _, part := range w.parts {
		p.dispatch(kernel{op: embedOp, format: w.format.GGML, segments: w.geometry.segments},
			words(part.store.supers, number, first, part.rows, part.first, 0, 0, 0).shapes(b),
			tiles(w.geometry.segments, 64), len(ids), 1, part.store.vectors, part.store.words, b.buffer)
		first += part.rows
	}
}

// RopeStore rotates k in its buffer too.
func (p *pass) RopeStore(q, k, v compute.Buffer, rope *compute.Rope, c compute.Cache, layer int) {
	queries, keys, vals, cache := q.(*buffer), k.(*buffer), v.(*buffer), c.(*cache)
	spec := cache.spec
	holds("rope keys", keys, p.batch.Rows, spec.KVHeads*spec.HeadDim)
	holds("rope values", vals, p.batch.Rows, spec.KVHeads*spec.HeadDim)
	holds("rope queries", queries, p.batch.Rows, queries.cols)
	if queries.cols%keys.cols != 0 || 2*rope.Pairs > spec.HeadDim || len(rope.Cos) != rope.Pairs*rope.Positions || len(rope.Sin) != len(rope.Cos) {
		fail("rope: %d pairs and %d angles for queries of %d in heads of %d", rope.Pairs, len(rope.Cos), queries.cols, spec.HeadDim)
	}
	p.checkPages(cache, layer)
	for _, s := range p.batch.Spans {
		if s.Start+s.Count > rope.Positions {
			fail("rope: position %d of %d", s.Start+s.Count-1, rope.Positions)
		}
	}
	angles, err := cache.arena.angles(rope)
	if err != nil && p.err == nil {
		p.err = err
	}
	neox := 0
	if rope.Neox {
		neox = 1
	}
	if t := p.waiting; t != nil && err == nil && t.fits(p.be.dev.Limits, queries, keys, vals, spec) {
		p.waiting = nil
		p.tripleRope(t, rope.Pairs, neox, cache, angles, cache.layers[layer])
		p.keep(keys, vals, cache, layer)
		return
	}
	p.settle()
	vBuffer := vals.buffer
	if vals == keys { // bound once as written
		vBuffer = p.copied(keys)
	}
	heads := queries.cols / spec.HeadDim
	p.dispatch(kernel{op: ropeOp, apart: cache.packed()},
		words(heads, spec.KVHeads, spec.HeadDim, rope.Pairs, neox, 0, 0, 0).shapes(queries, keys, vals),
		tiles((heads+spec.KVHeads)*spec.HeadDim/2, 128), p.batch.Rows, 1,
		angles, queries.buffer, keys.buffer, vBuffer, cache.layers[layer])
	stored := *vals
	stored.buffer = vBuffer
	p.keep(keys, &stored, cache, layer)
}

// checkPages panics unless layer and the pages that hold the batch are in c.
func (p *pass) checkPages(c *cache, layer int) {
	if layer < 0 || layer >= c.spec.Layers {
		fail("layer %d of %d", layer, c.spec.Layers)
	}
	for _, s := range p.batch.Spans {
		for _, page := range s.Pages[:(s.Start+s.Count+compute.PageTokens-1)/compute.PageTokens] {
			if page < 0 || int(page) >= c.spec.Pages {
				fail("page %d of %d", page, c.spec.Pages)
			}
		}
		c.checkFiner(&s)
	}
}

// Attend takes splits of the context side by side, and joins them where there is
// more than one.
func (p *pass) Attend(dst, q compute.Buffer, c compute.Cache, layer int, a compute.Attention) {
	p.settle()
	out, queries, cache := dst.(*buffer), q.(*buffer), c.(*cache)
	spec := cache.spec
	holds("attend", queries, p.batch.Rows, a.Heads*spec.HeadDim)
	holds("attend", out, p.batch.Rows, a.Heads*spec.HeadDim)
	if a.Heads <= 0 || a.Heads%spec.KVHeads != 0 || a.Window < 0 || a.SoftCap < 0 {
		fail("attend: %d heads share %d, window %d, soft cap %g", a.Heads, spec.KVHeads, a.Window, a.SoftCap)
	}
	p.checkPages(cache, layer)
	from := queries.buffer
	if out == queries {
		from = p.copied(queries)
	}
	as := *queries // its shape before out's changes
	parts := p.be.nothing
	if p.splits > 1 {
		parts = p.room(partScratch, 4*uint64(p.batch.Rows)*uint64(a.Heads)*uint64(p.splits)*uint64(spec.HeadDim+2))
	}
	out.linear = false
	block := words(a.Heads, spec.KVHeads, spec.HeadDim, a.Window, bits(a.Scale), bits(a.SoftCap), cache.recent(), cache.upper()).shapes(&as, out)
	p.noteAttention(cache, a.Heads)
	k := kernel{op: attendOp, dim: spec.HeadDim, class: spec.Class}
	if cache.packed() {
		k.op = attendCodeOp
	}
	p.dispatch(k, block, a.Heads, p.batch.Rows, p.splits, from, cache.layers[layer], out.buffer, parts)
	if p.splits > 1 {
		p.dispatch(kernel{op: joinOp, dim: spec.HeadDim}, block, a.Heads, p.batch.Rows, 1, parts, out.buffer)
	}
}

// room is Backend.room for a pass.
func (p *pass) room(which int, size uint64) *device.Buffer {
	b, err := p.be.room(which, size)
	if err != nil && p.err == nil {
		p.err = err
	}
	return b
}

// copied records a copy of the batch's rows of b, for a kernel that writes b too.
func (p *pass) copied(b *buffer) *device.Buffer {
	size := 4 * uint64(p.batch.Rows) * uint64(b.stride())
	to := p.room(copyScratch, size)
	if p.err == nil && size > 0 {
		p.commands.Copy(to, 0, b.buffer, 0, size)
	}
	return to
}
