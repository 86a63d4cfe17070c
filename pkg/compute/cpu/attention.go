package cpu

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu/vec"
)

// queryTile is up to vec.MaxRows query rows of one span that share a KV head.
// Query row i of a span is head i mod group of its token i / group.
type queryTile struct {
	span, head   int
	first, count int
}

// queryTiles returns the tiles of the batch for a number of heads. If they are
// paged, the rows of a tile lie in one page.
func (p *pass) queryTiles(heads, kvHeads int, paged bool) list {
	if p.heads == heads && p.kvHeads == kvHeads && p.paged == paged {
		return p.attends
	}
	from, group := len(p.queries), heads/kvHeads
	for i := range p.batch.Spans {
		span := &p.batch.Spans[i]
		for first, n := 0, span.Count*group; first < n; {
			count := min(vec.MaxRows, n-first)
			if paged {
				left := compute.PageTokens - (span.Start+first/group)%compute.PageTokens
				count = min(count, left*group-first%group)
			}
			for head := range kvHeads {
				p.queries = append(p.queries, queryTile{i, head, first, count})
			}
			first += count
		}
	}
	p.heads, p.kvHeads, p.paged, p.attends = heads, kvHeads, paged, list{from, len(p.queries)}
	return p.attends
}

// scratch is the working memory of one worker.
type scratch struct {
	row               []float32 // one row of activations
	outputs, outputs2 []float32 // blocks of products
	queries, mixed    []float32 // [vec.MaxRows][head dimension]
	page              []float32 // keys or values of a page, of a packed cache
	scores            [vec.MaxRows * vec.Keys]float32
	rows              [vec.MaxRows]vec.Row
	exact             []float64 // reference mode: a row of weights, or of scores
}

// grow makes room and returns the bytes held.
func (s *scratch) grow(n *need) int {
	s.row = grown(s.row, n.cols)
	s.outputs = grown(s.outputs, n.outputs)
	s.outputs2 = grown(s.outputs2, n.outputs)
	s.queries = grown(s.queries, vec.MaxRows*n.headDim)
	s.mixed = grown(s.mixed, vec.MaxRows*n.headDim)
	s.page = grown(s.page, n.page)
	s.exact = grown(s.exact, n.exact)
	return 4*(len(s.row)+len(s.outputs)+len(s.outputs2)+len(s.queries)+len(s.mixed)+len(s.page)) + 8*len(s.exact)
}

// ropeStore rotates one head of keys, and the queries that share it, of some
// rows, and stores keys and values.
func (w *worker) ropeStore(p *pass, s *step, task int) {
	heads, dim := s.cache.spec.KVHeads, s.cache.spec.HeadDim
	head, group := task%heads, s.dst.cols/s.src.cols
	first := task / heads * s.chunk
	for row := first; row < min(first+s.chunk, p.batch.Rows); row++ {
		span := p.spanOf(row)
		position := span.Start + row - span.Row
		angles := position * s.rope.Pairs
		cos, sin := s.rope.Cos[angles:][:s.rope.Pairs], s.rope.Sin[angles:][:s.rope.Pairs]
		key := s.src.row(row)[head*dim:][:dim]
		w.be.ops.Rotate(s.dst.row(row)[head*group*dim:][:group*dim], dim, cos, sin, s.rope.Neox)
		w.be.ops.Rotate(key, dim, cos, sin, s.rope.Neox)
		page, slot := s.cache.home(span, position/compute.PageTokens), position%compute.PageTokens
		s.cache.store(s.layer, page, head, slot, key, s.src2.row(row)[head*dim:][:dim], w.scratch.mixed)
	}
}

// spanOf returns the span of a row.
func (p *pass) spanOf(row int) *compute.Span {
	low, high := 0, len(p.batch.Spans)-1
	for low < high {
		middle := (low + high + 1) / 2
		if p.batch.Spans[middle].Row <= row {
			low = middle
		} else {
			high = middle - 1
		}
	}
	return &p.batch.Spans[low]
}

// attend computes a tile of query rows over all pages that any of them sees.
func (w *worker) attend(p *pass, s *step, task int) {
	if w.be.reference {
		w.referenceAttend(p, s, task)
		return
	}
	tile := p.queries[s.queries.from+task]
	span := &p.batch.Spans[tile.span]
	dim, group := s.cache.spec.HeadDim, s.heads/s.cache.spec.KVHeads
	rows := w.scratch.rows[:tile.count]
	queries, mixed := w.scratch.queries[:tile.count*dim], w.scratch.mixed[:tile.count*dim]
	clear(mixed)
	for r := range rows {
		rows[r].Reset()
		query := queries[r*dim : (r+1)*dim]
		copy(query, tile.of(s.src, span, r, group, dim))
		s.cache.turn(query)
	}
	first := firstKey(span.Start+tile.first/group, s.window)
	last := span.Start + (tile.first+tile.count-1)/group
	for page := first / vec.Keys; page <= last/vec.Keys; page++ {
		for r := range rows {
			position := span.Start + (tile.first+r)/group
			rows[r].First = int32(firstKey(position, s.window) - page*vec.Keys)
			rows[r].Last = int32(position - page*vec.Keys)
		}
		seen := min(last-page*vec.Keys+1, vec.Keys) // of the page, by the last row
		scores := w.scratch.scores[:]
		form := s.cache.form(span, last/vec.Keys, page)
		w.be.ops.Score(scores, queries, s.cache.keys(s.layer, form, tile.head, w.scratch.page), len(rows), dim, seen)
		w.be.ops.Softmax(scores, rows, s.scale, s.softCap)
		w.be.ops.Values(mixed, scores, s.cache.values(s.layer, form, tile.head, w.scratch.page), rows, dim, seen)
	}
	for r := range rows {
		out := tile.of(s.dst, span, r, group, dim)
		w.be.ops.Finish(out, mixed[r*dim:(r+1)*dim], &rows[r])
		s.cache.turn(out)
	}
}

// of returns the part of b that belongs to query row r of the tile.
func (t queryTile) of(b *buffer, span *compute.Span, r, group, dim int) []float32 {
	i := t.first + r
	return b.row(span.Row + i/group)[(t.head*group+i%group)*dim:][:dim]
}

// firstKey returns the first position that a query sees.
func firstKey(position, window int) int {
	if window == 0 {
		return 0
	}
	return max(0, position-window+1)
}
