package computetest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// layer is a one-layer model on a device.
type layer struct {
	r                                        *rig
	hidden, ff                               int
	g                                        geometry
	table, wq, wk, wv, wo, wGate, wUp, wDown *matrix
	gain                                     compute.Vector
	rope                                     *compute.Rope
	cache                                    compute.Cache
	x, q, k, v, mixed, gated, logits         compute.Buffer
}

const layerVocab = 50

func newLayer(r *rig, f quant.Format, hidden, ff int, g geometry, rows, pages int, class compute.KVClass) *layer {
	l := &layer{r: r, hidden: hidden, ff: ff, g: g}
	l.table = r.load(f, layerVocab, hidden)
	l.wq, l.wk, l.wv = r.load(f, g.heads*g.dim, hidden), r.load(f, g.kvHeads*g.dim, hidden), r.load(f, g.kvHeads*g.dim, hidden)
	l.wo, l.wDown = r.load(f, hidden, g.heads*g.dim), r.load(f, hidden, ff)
	l.wGate, l.wUp = r.load(f, ff, hidden), r.load(f, ff, hidden)
	l.gain = r.vector(r.normal(hidden, 1))
	l.rope = compute.NewRope(g.dim, g.dim, pages*compute.PageTokens, 10000, nil, false)
	spec := compute.CacheSpec{Layers: 1, Pages: pages, KVHeads: g.kvHeads, HeadDim: g.dim, Class: class}
	if class.Steps() { // pages are written where they are
		spec.Pools.Recent = pages
	}
	l.cache = r.cache(spec)
	l.x, l.q, l.mixed = r.buffer(rows, hidden), r.buffer(rows, g.heads*g.dim), r.buffer(rows, g.heads*g.dim)
	l.k, l.v = r.buffer(rows, g.kvHeads*g.dim), r.buffer(rows, g.kvHeads*g.dim)
	l.gated, l.logits = r.buffer(rows, ff), r.buffer(rows, layerVocab)
	return l
}

// record records the layer for a batch, with logits of all rows.
func (l *layer) record(p compute.Pass, ids, logits []int32) {
	p.Embed(l.x, l.table.device, ids)
	p.NormLinear([]compute.Buffer{l.q, l.k, l.v}, l.x, l.gain, 1e-5, []compute.Weight{l.wq.device, l.wk.device, l.wv.device})
	p.RopeStore(l.q, l.k, l.v, l.rope, l.cache, 0)
	p.Attend(l.mixed, l.q, l.cache, 0, compute.Attention{Heads: l.g.heads, Scale: 0.125})
	p.LinearAdd(l.x, l.wo.device, l.mixed)
	p.NormGateUp(l.gated, l.x, l.gain, 1e-5, l.wGate.device, l.wUp.device, compute.SiLU)
	p.LinearAdd(l.x, l.wDown.device, l.gated)
	p.Head(l.logits, l.x, logits, l.gain, 1e-5, l.table.device)
}

// piece is a chunk of a session: its next count tokens.
type piece struct{ session, count int }

// run computes batches of pieces and returns the logits of every position of
// every session.
func (l *layer) run(ids [][]int32, pages [][]int32, batches [][]piece) [][]float32 {
	out := make([][]float32, len(ids))
	done := make([]int, len(ids))
	for i, pieces := range batches {
		batch := &compute.Batch{}
		var tokens, rows []int32
		for _, c := range pieces {
			start := done[c.session]
			batch.Spans = append(batch.Spans, compute.Span{Row: batch.Rows, Start: start, Count: c.count, Pages: pages[c.session], Recent: pages[c.session]})
			batch.Rows += c.count
			tokens = append(tokens, ids[c.session][start:start+c.count]...)
			done[c.session] += c.count
		}
		for row := range batch.Rows {
			rows = append(rows, int32(row))
		}
		p := l.r.be.Begin(batch)
		if i == 0 {
			p.ClearPages(l.cache, slices.Concat(pages...))
		}
		l.record(p, tokens, rows)
		got := l.r.values(p, l.logits, batch.Rows)
		for _, c := range pieces {
			n := c.count * layerVocab
			out[c.session] = append(out[c.session], got[:n]...)
			got = got[n:]
		}
	}
	return out
}

// testSameAnswer computes sessions alone, chunked, in one batch with others and
// on other pages: every logit has the same bits.
func testSameAnswer(t *testing.T, r *rig, f quant.Format, class compute.KVClass) {
	hidden := max(f.BlockElems, 128)
	l := newLayer(r, f, hidden, 2*hidden, geometry{4, 2, hidden / 4}, 128, 6, class)
	lengths := []int{70, 20, 5}
	ids := make([][]int32, len(lengths))
	for i, n := range lengths {
		for range n {
			ids[i] = append(ids[i], int32(r.rng.IntN(layerVocab)))
		}
	}
	want := l.run(ids, [][]int32{{0, 1}, {2}, {3}}, [][]piece{{{0, 70}}, {{1, 20}}, {{2, 5}}})
	other := [][]int32{{5, 2}, {0}, {4}}
	for name, batches := range map[string][][]piece{
		"in one batch":      {{{2, 5}, {0, 70}, {1, 20}}},
		"in uneven chunks":  {{{0, 13}}, {{0, 1}, {1, 11}}, {{1, 9}, {0, 51}}, {{0, 5}, {2, 5}}},
		"token by token":    append(append(single(0, 70), single(1, 20)...), single(2, 5)...),
		"beside a long one": {{{0, 60}}, {{0, 3}, {1, 1}, {2, 1}}, {{2, 4}, {0, 7}}, {{1, 19}}},
		"decoded side by side": {{{0, 67}, {1, 17}, {2, 2}}, {{0, 1}, {1, 1}, {2, 1}},
			{{2, 1}, {1, 1}, {0, 1}}, {{1, 1}, {0, 1}, {2, 1}}},
	} {
		for i, got := range l.run(ids, other, batches) {
			sameBits(t, fmt.Sprintf("session %d %s", i, name), got, want[i])
		}
	}
}

// single is count batches of one token.
func single(session, count int) [][]piece {
	out := make([][]piece, count)
	for i := range out {
		out[i] = []piece{{session, 1}}
	}
	return out
}
