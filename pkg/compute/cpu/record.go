package cpu

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// fail panics: the shapes of an operation do not agree.
func fail(format string, args ...any) { panic("cpu: " + fmt.Sprintf(format, args...)) }

// holds panics unless b has room for rows rows of cols.
func holds(op string, b *buffer, rows, cols int) {
	if b.cols != cols || b.rows < rows {
		fail("%s: a buffer of %d rows of %d for %d of %d", op, b.rows, b.cols, rows, cols)
	}
}

// ClearPages zeroes pages in all layers before the other steps.
func (p *pass) ClearPages(c compute.Cache, pages []int32) {
	if len(pages) == 0 {
		return
	}
	cache := c.(*cache)
	for _, page := range pages {
		if n := cache.written().pages; page < 0 || int(page) >= n {
			fail("clear page %d of %d", page, n)
		}
	}
	from := len(p.ints)
	p.ints = append(p.ints, pages...)
	p.clears = append(p.clears, step{kind: clearPages, cache: cache, pages: list{from, len(p.ints)}, tasks: cache.spec.Layers * len(pages)})
}

// Write copies rows at once; dst gets them when the pass runs.
func (p *pass) Write(dst compute.Buffer, rows []byte) {
	b := dst.(*buffer)
	holds("write", b, p.batch.Rows, b.cols)
	if len(rows) != 4*p.batch.Rows*b.cols {
		fail("write: %d bytes for %d rows of %d", len(rows), p.batch.Rows, b.cols)
	}
	from := len(p.bytes)
	p.bytes = append(p.bytes, rows...)
	p.add(step{kind: writeRow, dst: b, bytes: list{from, len(p.bytes)}, tasks: p.batch.Rows})
}

// Overwrite copies the rows into the pass at once.
func (p *pass) Overwrite(dst compute.Buffer, at []int32, rows []byte) {
	b := dst.(*buffer)
	holds("overwrite", b, p.batch.Rows, b.cols)
	if len(rows) != 4*len(at)*b.cols {
		fail("overwrite: %d bytes for %d rows of %d", len(rows), len(at), b.cols)
	}
	for _, row := range at {
		if row < 0 || int(row) >= p.batch.Rows {
			fail("overwrite: row %d of %d", row, p.batch.Rows)
		}
	}
	if len(at) == 0 {
		return
	}
	from, first := len(p.bytes), len(p.ints)
	p.bytes, p.ints = append(p.bytes, rows...), append(p.ints, at...)
	p.add(step{kind: overwriteRow, dst: b, bytes: list{from, len(p.bytes)}, rows: list{first, len(p.ints)}, tasks: len(at)})
}

// Embed looks rows up in the bytes that a tied head multiplies.
func (p *pass) Embed(dst compute.Buffer, table compute.Weight, ids []int32) {
	b, w := dst.(*buffer), table.(*weight)
	holds("embed", b, p.batch.Rows, w.cols)
	if len(ids) != p.batch.Rows {
		fail("embed: %d ids for %d rows", len(ids), p.batch.Rows)
	}
	for _, id := range ids {
		if id < 0 || int(id) >= w.rows {
			fail("embed: id %d of %d", id, w.rows)
		}
	}
	from := len(p.ints)
	p.ints = append(p.ints, ids...)
	p.add(step{kind: embedRow, dst: b, weight: w, rows: list{from, len(p.ints)}, tasks: len(ids)})
}

// NormLinear normalises and quantises once, and multiplies all weights in one
// step.
func (p *pass) NormLinear(dst []compute.Buffer, x compute.Buffer, gain compute.Vector, eps float32, ws []compute.Weight) {
	if len(dst) != len(ws) {
		fail("norm linear: %d buffers for %d weights", len(dst), len(ws))
	}
	norm := p.norm(x, gain, eps, p.rows)
	multiply := step{kind: product, tiles: p.rows, products: list{from: len(p.products)}}
	for i, m := range ws {
		p.mul(&norm, &multiply, dst[i].(*buffer), m.(*weight))
	}
	p.addProduct(norm, multiply)
}

// LinearAdd adds the product where it is stored.
func (p *pass) LinearAdd(x compute.Buffer, m compute.Weight, y compute.Buffer) {
	src, w := y.(*buffer), m.(*weight)
	holds("linear add", src, p.batch.Rows, w.cols)
	tile := step{kind: tileRows, src: src, tiles: p.rows}
	multiply := step{kind: productAdd, tiles: p.rows, products: list{from: len(p.products)}}
	p.mul(&tile, &multiply, x.(*buffer), w)
	p.addProduct(tile, multiply)
}

// NormGateUp applies the activation to each block of the two products.
func (p *pass) NormGateUp(dst, x compute.Buffer, gain compute.Vector, eps float32, gate, up compute.Weight, act compute.Activation) {
	g, u := gate.(*weight), up.(*weight)
	if g.rows != u.rows || g.cols != u.cols || act > compute.GELUTanh {
		fail("norm gate up: a gate of %d × %d with %d × %d, activation %d", g.rows, g.cols, u.rows, u.cols, act)
	}
	norm := p.norm(x, gain, eps, p.rows)
	multiply := step{kind: productGate, act: act, tiles: p.rows, products: list{from: len(p.products)}}
	p.mul(&norm, &multiply, dst.(*buffer), g)
	p.products[len(p.products)-1].up = u
	norm.forms.add(u)
	p.addProduct(norm, multiply)
}

// Head is a norm and a product of some rows.
func (p *pass) Head(dst, x compute.Buffer, rows []int32, gain compute.Vector, eps float32, m compute.Weight) {
	if len(rows) == 0 {
		return
	}
	for _, row := range rows {
		if row < 0 || int(row) >= p.batch.Rows {
			fail("head: row %d of %d", row, p.batch.Rows)
		}
	}
	tiles := p.cut(len(rows))
	norm := p.norm(x, gain, eps, tiles)
	norm.rows.from = len(p.ints)
	p.ints = append(p.ints, rows...)
	norm.rows.to = len(p.ints)
	multiply := step{kind: product, tiles: tiles, products: list{from: len(p.products)}}
	p.mul(&norm, &multiply, dst.(*buffer), m.(*weight))
	p.addProduct(norm, multiply)
}

// norm returns the step that normalises x into tiles.
func (p *pass) norm(x compute.Buffer, gain compute.Vector, eps float32, tiles list) step {
	src, g := x.(*buffer), gain.(*vector)
	holds("norm", src, p.batch.Rows, g.n)
	return step{kind: tileRows, norm: true, src: src, gain: g, eps: eps, tiles: tiles}
}

// mul adds dst = w·tiles to a step of products.
func (p *pass) mul(tile, multiply *step, dst *buffer, w *weight) {
	if w.cols != tile.src.cols {
		fail("product: a weight of %d × %d with rows of %d", w.rows, w.cols, tile.src.cols)
	}
	n := p.batch.Rows
	if tile.rows.len() > 0 {
		n = tile.rows.len()
	}
	holds("product", dst, n, w.rows)
	tile.forms.add(w)
	p.products = append(p.products, productTask{weight: w, dst: dst})
	multiply.products.to = len(p.products)
}

// addProduct appends a step that fills tiles and one that multiplies them.
func (p *pass) addProduct(tile, multiply step) {
	if multiply.products.len() == 0 {
		return
	}
	rows := p.padded(tile.tiles)
	cols := tile.src.cols
	tile.chunk = p.chunk(rows, 1, quant.WideTile)
	tile.tasks = (rows + tile.chunk - 1) / tile.chunk
	p.need.cols = max(p.need.cols, tile.src.stride)
	if p.be.reference {
		p.need.exact = max(p.need.exact, 2*cols)
	}
	p.schedule(&multiply)
	if rows == 1 && !p.be.reference && !p.writes(multiply, tile.src) {
		// One row is tiled sooner than workers meet at a barrier.
		p.need.own.add(tile.forms, rows, cols, false)
		multiply.own, multiply.norm, multiply.src, multiply.gain, multiply.eps = true, tile.norm, tile.src, tile.gain, tile.eps
		multiply.rows, multiply.forms = tile.rows, tile.forms
		p.add(multiply)
		return
	}
	p.need.shared.add(tile.forms, rows, cols, p.be.reference)
	p.add(tile)
	p.add(multiply)
}

// writes reports whether a step of products writes to b.
func (p *pass) writes(s step, b *buffer) bool {
	for i := s.products.from; i < s.products.to; i++ {
		if p.products[i].dst == b {
			return true
		}
	}
	return false
}

// chunk returns how many of n rows, in columns columns of tasks, a task takes: up
// to most, and few enough that every worker finds some tasks.
func (p *pass) chunk(n, columns, most int) int {
	return max(1, min(most, n*columns/(tasksPerWorker*p.be.info.Threads)))
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
	p.needHead(spec)
	for _, s := range p.batch.Spans {
		if s.Start+s.Count > rope.Positions {
			fail("rope: position %d of %d", s.Start+s.Count-1, rope.Positions)
		}
	}
	chunk := p.chunk(p.batch.Rows, spec.KVHeads, 16) // 16 positions are a cache line of keys
	p.add(step{
		kind: ropeStore, dst: queries, src: keys, src2: vals, rope: rope, cache: cache, layer: layer,
		chunk: chunk, tasks: (p.batch.Rows + chunk - 1) / chunk * spec.KVHeads,
	})
	p.lowerPages(cache, layer)
	p.thinPages(cache, layer)
}

// thinPages thins the blocks that spans begin with, in all layers before anything
// writes pages.
func (p *pass) thinPages(c *cache, layer int) {
	for i := range p.batch.Spans {
		s := &p.batch.Spans[i]
		if len(s.Thinned) == 0 {
			continue
		}
		pages, gone := c.spec.Class.Kept(1)
		if end, _ := c.spec.Class.Kept(c.spec.Class.Thinned(s.Start)); end == 0 || end > len(s.Pages) || len(s.Thinned) != pages+gone && (end > pages || len(s.Thinned) != pages+gone-1) {
			fail("thin %d pages at position %d", len(s.Thinned), s.Start)
		}
		for _, page := range s.Thinned {
			if page < 0 || int(page) >= c.spec.Pages {
				fail("thin page %d of %d", page, c.spec.Pages)
			}
		}
		p.need.thin = c
	}
	if p.need.thin != nil {
		p.thins = append(p.thins, step{kind: thin, cache: c, layer: layer, tasks: c.spec.KVHeads})
	}
}

// lowerPages makes codes of the pages that the batch completes. That is a
// function of what the page holds, and no row sees them before: which step does
// it changes nothing.
func (p *pass) lowerPages(c *cache, layer int) {
	if !c.spec.Class.Steps() {
		return
	}
	from := len(p.ints)
	for i := range p.batch.Spans {
		s := &p.batch.Spans[i]
		gone := c.gone(s)
		for page := max(s.Start/compute.PageTokens-gone, 1); page < (s.Start+s.Count)/compute.PageTokens-gone; page++ {
			upper := int32(-1)
			if c.spec.Class.Upper != 0 {
				upper = s.Upper[page]
			}
			p.ints = append(p.ints, s.Recent[page], upper, s.Pages[page])
		}
	}
	if n := (len(p.ints) - from) / 3; n > 0 {
		p.add(step{kind: lower, cache: c, layer: layer, pages: list{from, len(p.ints)}, tasks: n * c.spec.KVHeads})
	}
}

// checkPages panics unless layer and the pages that hold the batch are in c.
func (p *pass) checkPages(c *cache, layer int) {
	if layer < 0 || layer >= c.spec.Layers {
		fail("layer %d of %d", layer, c.spec.Layers)
	}
	for _, s := range p.batch.Spans {
		n := padTo(s.Start+s.Count, compute.PageTokens)/compute.PageTokens - c.gone(&s)
		if n > len(s.Pages) {
			fail("%d rows from position %d with %d pages", s.Count, s.Start, len(s.Pages))
		}
		if class := c.spec.Class; class.Cut(s.Start, s.Count) < s.Count || class.Ratio != 0 && (s.Slot < 0 || s.Slot >= c.spec.Pools.Queries) {
			fail("%d rows from position %d of slot %d of %d, of class %s", s.Count, s.Start, s.Slot, c.spec.Pools.Queries, class)
		}
		for _, page := range s.Pages[:n] {
			if page < 0 || int(page) >= c.spec.Pages {
				fail("page %d of %d", page, c.spec.Pages)
			}
		}
		c.checkFiner(&s)
	}
}

// Attend makes one task per tile of query rows that share keys.
func (p *pass) Attend(dst, q compute.Buffer, c compute.Cache, layer int, a compute.Attention) {
	out, queries, cache := dst.(*buffer), q.(*buffer), c.(*cache)
	spec := cache.spec
	holds("attend", queries, p.batch.Rows, a.Heads*spec.HeadDim)
	holds("attend", out, p.batch.Rows, a.Heads*spec.HeadDim)
	if a.Heads <= 0 || a.Heads%spec.KVHeads != 0 || a.Window < 0 || a.SoftCap < 0 {
		fail("attend: %d heads share %d, window %d, soft cap %g", a.Heads, spec.KVHeads, a.Window, a.SoftCap)
	}
	if spec.Class.Ratio != 0 && (a.Heads != spec.Heads || a.Window != 0 || a.SoftCap != 0) {
		fail("attend: %d of %d heads, window %d and soft cap %g over positions that thin out", a.Heads, spec.Heads, a.Window, a.SoftCap)
	}
	p.checkPages(cache, layer)
	tiles := p.queryTiles(a.Heads, spec.KVHeads, spec.Class)
	p.needHead(spec)
	if p.be.reference {
		for _, span := range p.batch.Spans { // scores, in room for whole pages
			p.need.exact = max(p.need.exact, padTo(span.Start+span.Count, compute.PageTokens))
		}
	}
	p.add(step{
		kind: attend, dst: out, src: queries, cache: cache, layer: layer, heads: a.Heads,
		scale: a.Scale, softCap: a.SoftCap, window: a.Window, queries: tiles, tasks: tiles.len(),
	})
}
