package cpu

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu/vec"
)

// packedRows is the most query rows of a tile that share pages which are unpacked:
// an unpacked page serves several calls of the kernels.
const packedRows = 4 * vec.MaxRows

// queryTile is query rows of one span that share a KV head: up to vec.MaxRows, or
// packedRows where pages are unpacked.
// Query row i of a span is head i mod group of its token i / group.
type queryTile struct {
	span, head   int
	first, count int
}

// queryTiles returns the tiles of the batch for a number of heads. Where values
// step down the rows of a tile lie in one page.
func (p *pass) queryTiles(heads, kvHeads int, class compute.KVClass) list {
	if p.heads == heads && p.kvHeads == kvHeads && p.class == class {
		return p.attends
	}
	most := vec.MaxRows
	if class != (compute.KVClass{}) {
		most = packedRows
	}
	from, group := len(p.queries), heads/kvHeads
	for i := range p.batch.Spans {
		span := &p.batch.Spans[i]
		for first, n := 0, span.Count*group; first < n; {
			count := min(most, n-first)
			if class.Steps() {
				left := compute.PageTokens - (span.Start+first/group)%compute.PageTokens
				count = min(count, left*group-first%group)
			}
			for head := range kvHeads {
				p.queries = append(p.queries, queryTile{i, head, first, count})
			}
			first += count
		}
	}
	p.heads, p.kvHeads, p.class, p.attends = heads, kvHeads, class, list{from, len(p.queries)}
	return p.attends
}

// scratch is the working memory of one worker.
type scratch struct {
	row               []float32 // one row of activations
	outputs, outputs2 []float32 // blocks of products
	queries, mixed    []float32 // [packedRows][head dimension]
	page              []float32 // keys or values of a page, of a packed cache
	scores            [packedRows * vec.Keys]float32
	rows              [packedRows]vec.Row
	thin              thinning
	exact             []float64 // reference mode: a row of weights, or of scores
}

// grow makes room and returns the bytes held.
func (s *scratch) grow(n *need) int {
	s.row = grown(s.row, n.cols)
	s.outputs = grown(s.outputs, n.outputs)
	s.outputs2 = grown(s.outputs2, n.outputs)
	s.queries = grown(s.queries, packedRows*n.headDim)
	s.mixed = grown(s.mixed, packedRows*n.headDim)
	s.page = grown(s.page, n.page)
	s.exact = grown(s.exact, n.exact)
	return 4*(len(s.row)+len(s.outputs)+len(s.outputs2)+len(s.queries)+len(s.mixed)+len(s.page)) + 8*len(s.exact) + s.thin.grow(n.thin)
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
		page, slot := s.cache.home(span, position/compute.PageTokens-s.cache.gone(span)), position%compute.PageTokens
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
	// Pages are those of the span's tables: what was kept of thinned blocks is seen as if
	// it had the first positions, and the rest as if it came right behind.
	gone := s.cache.gone(span) * vec.Keys
	first, last = max(0, first-gone), last-gone
	for page := first / vec.Keys; page <= last/vec.Keys; page++ {
		for r := range rows {
			position := span.Start + (tile.first+r)/group - gone
			rows[r].First = int32(firstKey(position, s.window) - page*vec.Keys)
			rows[r].Last = int32(position - page*vec.Keys)
		}
		form := s.cache.form(span, last/vec.Keys, page)
		page := s.cache.keys(s.layer, form, tile.head, w.scratch.page)
		for from := 0; from < len(rows); from += vec.MaxRows {
			part, scores := rows[from:min(from+vec.MaxRows, len(rows))], w.scratch.scores[from*vec.Keys:]
			if seen := seenBy(part); seen > 0 {
				w.be.ops.Score(scores, queries[from*dim:], page, len(part), dim, seen)
				w.be.ops.Softmax(scores, part, s.scale, s.softCap)
			}
		}
		page = s.cache.values(s.layer, form, tile.head, w.scratch.page)
		for from := 0; from < len(rows); from += vec.MaxRows {
			part := rows[from:min(from+vec.MaxRows, len(rows))]
			if seen := seenBy(part); seen > 0 {
				w.be.ops.Values(mixed[from*dim:], w.scratch.scores[from*vec.Keys:], page, part, dim, seen)
			}
		}
	}
	for r := range rows {
		out := tile.of(s.dst, span, r, group, dim)
		if position := span.Start + (tile.first+r)/group; watches(s.cache.spec.Class, position) {
			head := tile.head*group + (tile.first+r)%group
			s.cache.watched.watch(s.layer, span.Slot, head, position, queries[r*dim:(r+1)*dim], s.scale, &rows[r])
		}
		w.be.ops.Finish(out, mixed[r*dim:(r+1)*dim], &rows[r])
		s.cache.turn(out)
	}
}

// seenBy returns how many of a page's first keys rows see that ascend, 0 if they
// see none of the page.
func seenBy(rows []vec.Row) int {
	last := int(rows[len(rows)-1].Last)
	if last < 0 || rows[0].First >= vec.Keys {
		return 0
	}
	return min(last+1, vec.Keys)
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
