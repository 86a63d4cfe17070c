package cpu

import (
	"cmp"
	"slices"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu/vec"
)

// watched is where the queries of a session's last page before a multiple of
// compute.KVBlock wait for what they choose. Of each layer, place and query head they
// are 64 rows of a head, scaled as their scores are, then the greatest score of each
// row over all its keys, then its sum of exp(score − greatest).
type watched struct {
	floats []float32
	places int
	heads  int
	dim    int
}

func (q *watched) at(layer, place, head int) []float32 {
	n := compute.PageTokens * (q.dim + 2)
	return q.floats[((layer*q.places+place)*q.heads+head)*n:][:n:n]
}

// watches reports whether the query of a position chooses.
func watches(class compute.KVClass, position int) bool {
	end := position/compute.KVBlock*compute.KVBlock + compute.KVBlock
	return class.Ratio != 0 && end-position <= compute.PageTokens && class.Thinned(end) > 0
}

// watch keeps a query and what its row of scores came to. A row that is computed again
// takes its old place.
func (q *watched) watch(layer, place, head, position int, query []float32, scale float32, row *vec.Row) {
	at, slot := q.at(layer, place, head), position%compute.PageTokens
	for d, v := range query {
		at[slot*q.dim+d] = v * scale
	}
	sum := float32(0)
	for _, v := range row.Sum {
		sum += v
	}
	at[compute.PageTokens*q.dim+slot] = row.Max
	at[compute.PageTokens*(q.dim+1)+slot] = sum
}

// thinning is the working memory of one worker that thins.
type thinning struct {
	mass   []float32 // what each position of a block weighs
	order  []int32   // positions of a block
	floats []float32 // keys, then values, of the pages to be, of a class that steps down
	bytes  []byte    // the pages to be, of others
}

// grow makes room for the blocks of a cache and returns the bytes held.
func (t *thinning) grow(c *cache) int {
	if c == nil {
		return 0
	}
	pages, _ := c.spec.Class.Kept(1)
	t.mass, t.order = grown(t.mass, compute.KVBlock), grown(t.order, compute.KVBlock)
	if c.spec.Class.Steps() {
		t.floats = grown(t.floats, 2*pages*c.head)
	} else {
		t.bytes = grown(t.bytes, pages*c.oldest.bytes)
	}
	return 4*(len(t.mass)+len(t.order)+len(t.floats)) + len(t.bytes)
}

// thinPages keeps of one head's old positions those that weigh most, for the spans
// that begin so, one after another: pages of one may become those of the next.
func (w *worker) thinPages(p *pass, s *step, head int) {
	for i := range p.batch.Spans {
		if span := &p.batch.Spans[i]; len(span.Thinned) > 0 {
			w.thin(s.cache, s.layer, head, span)
		}
	}
}

func (w *worker) thin(c *cache, layer, head int, span *compute.Span) {
	class := c.spec.Class
	end, _ := class.Kept(class.Thinned(span.Start))
	kept, _ := class.Kept(1)
	to := span.Pages[end-kept : end]
	if end == kept {
		to = to[1:] // page 0 is there
	}
	t := &w.scratch.thin
	mass := t.mass[:len(span.Thinned)*compute.PageTokens]
	w.weigh(c, layer, head, span, mass)
	chosen := heaviest(t.order[:len(mass)], mass, len(to)*compute.PageTokens)
	if class.Steps() {
		w.thinSteps(c, layer, head, span.Thinned, to, chosen)
		return
	}
	staged := t.bytes[:len(to)*c.oldest.bytes]
	for i, at := range chosen {
		from := c.oldest.at(layer, span.Thinned[at/compute.PageTokens], head)
		c.copySlot(staged[i/compute.PageTokens*c.oldest.bytes:][:c.oldest.bytes], i%compute.PageTokens, from, int(at)%compute.PageTokens)
	}
	for i, page := range to {
		copy(c.oldest.at(layer, page, head), staged[i*c.oldest.bytes:])
	}
}

// weigh sums for each position of a block the shares that the watched queries give
// it, in the order of heads and rows.
func (w *worker) weigh(c *cache, layer, head int, span *compute.Span, mass []float32) {
	clear(mass)
	dim, group := c.spec.HeadDim, c.spec.Heads/c.spec.KVHeads
	scores := w.scratch.scores[:]
	for i, page := range span.Thinned {
		keys := c.keys(layer, form{&c.oldest, page}, head, w.scratch.page)
		part := mass[i*compute.PageTokens:][:compute.PageTokens]
		for h := head * group; h < (head+1)*group; h++ {
			q := c.watched.at(layer, span.Slot, h)
			most, sums := q[compute.PageTokens*dim:], q[compute.PageTokens*(dim+1):]
			for from := 0; from < compute.PageTokens; from += vec.MaxRows {
				rows := min(vec.MaxRows, compute.PageTokens-from)
				w.be.ops.Score(scores, q[from*dim:], keys, rows, dim, compute.PageTokens)
				for r := range rows {
					row := scores[r*compute.PageTokens:][:compute.PageTokens]
					for k := range row {
						row[k] -= most[from+r]
					}
					w.be.ops.Exp(row, row)
					share := 1 / sums[from+r]
					for k, e := range row {
						part[k] += float32(e * share)
					}
				}
			}
		}
	}
}

// heaviest returns the n positions of the greatest mass, of equal ones the first, in
// ascending order, in room.
func heaviest(room []int32, mass []float32, n int) []int32 {
	for i := range room {
		room[i] = int32(i)
	}
	slices.SortFunc(room, func(a, b int32) int {
		return cmp.Or(cmp.Compare(mass[b], mass[a]), cmp.Compare(a, b))
	})
	slices.Sort(room[:n])
	return room[:n]
}

// thinSteps makes codes of the chosen positions: keys of a channel that share a scale
// are others than before.
func (w *worker) thinSteps(c *cache, layer, head int, from, to, chosen []int32) {
	dim := c.spec.HeadDim
	keys, values := w.scratch.thin.floats[:len(to)*c.head], w.scratch.thin.floats[len(to)*c.head:]
	at := 0
	for i, page := range from {
		first := at
		for at < len(chosen) && int(chosen[at])/compute.PageTokens == i {
			at++
		}
		f := form{&c.oldest, page}
		x := c.keys(layer, f, head, w.scratch.page)
		for j := first; j < at; j++ {
			old, column := int(chosen[j])%compute.PageTokens, j/compute.PageTokens*c.head+j%compute.PageTokens
			for d := range dim {
				keys[column+d*compute.PageTokens] = x[d*compute.PageTokens+old]
			}
		}
		x = c.values(layer, f, head, w.scratch.page)
		for j := first; j < at; j++ {
			old := int(chosen[j]) % compute.PageTokens
			copy(values[j*dim:][:dim], x[old*dim:])
		}
	}
	for i, page := range to {
		dst := c.oldest.at(layer, page, head)
		codes, scales, group := c.codes(dst, c.oldest.bits, false)
		vec.PackCodes(codes, scales, keys[i*c.head:][:c.head], c.oldest.bits, group)
		codes, scales, group = c.codes(dst, c.oldest.bits, true)
		vec.PackCodes(codes, scales, values[i*c.head:][:c.head], c.oldest.bits, group)
	}
}

// copySlot copies the key and value of a position, in halves or in 8 bits.
func (c *cache) copySlot(dst []byte, to int, src []byte, from int) {
	dim, width := c.spec.HeadDim, c.oldest.bits/8
	for d := range dim {
		copy(dst[(d*compute.PageTokens+to)*width:][:width], src[(d*compute.PageTokens+from)*width:])
	}
	if width == 2 {
		copy(dst[2*(c.head+to*dim):][:2*dim], src[2*(c.head+from*dim):])
		return
	}
	groups, half := dim/c.spec.Class.Group, len(src)/2
	for g := range groups {
		for _, at := range [2]int{0, 2 * compute.PageTokens} { // scales and least values
			column := c.head + g*4*compute.PageTokens + at
			copy(dst[column+2*to:][:2], src[column+2*from:])
		}
	}
	copy(dst[half+to*dim:][:dim], src[half+from*dim:])
	copy(dst[half+c.head+to*groups*4:][:groups*4], src[half+c.head+from*groups*4:])
}
