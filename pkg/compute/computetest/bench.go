package computetest

import (
	"fmt"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// Bench measures a layer of the shape of a small model on each weight format, for
// batches of one token, of several sessions' tokens, and of a prompt's chunk. It
// reports rows a second and bytes of weights a second. Then come products of one row
// in each format, and attention of one row over each class of KV cache.
func Bench(b *testing.B, open func(testing.TB) compute.Backend) {
	defer benchParts(b, open)
	for _, f := range formats.All() {
		hidden := 512
		for _, shape := range []struct {
			name           string
			sessions, rows int // rows of each session
			start          int
		}{
			{"decode at 200", 1, 1, 200}, {"8 sessions at 200", 8, 1, 200}, {"prompt of 128", 1, 128, 0},
		} {
			b.Run(fmt.Sprintf("%s/%s", f.Name, shape.name), func(b *testing.B) {
				r := newRig(b, open)
				l := newLayer(r, f, hidden, 3*hidden, geometry{8, 2, 64}, 128, 32, compute.KVClass{})
				batch := &compute.Batch{}
				for i := range shape.sessions {
					pages := []int32{int32(4 * i), int32(4*i + 1), int32(4*i + 2), int32(4*i + 3)}
					batch.Spans = append(batch.Spans, compute.Span{Row: batch.Rows, Start: shape.start, Count: shape.rows, Pages: pages})
					batch.Rows += shape.rows
				}
				ids := make([]int32, batch.Rows)
				weights := r.be.Used().Weights
				for b.Loop() {
					p := r.be.Begin(batch)
					l.record(p, ids, ids[:1])
					p.Submit(1)
					if c := <-r.be.Completions(); c.Err != nil {
						b.Fatal(c.Err)
					}
				}
				seconds := b.Elapsed().Seconds()
				b.ReportMetric(float64(batch.Rows*b.N)/seconds, "rows/s")
				b.ReportMetric(float64(weights)*float64(b.N)/seconds/1e9, "GB/s")
			})
		}
	}
}

func benchParts(b *testing.B, open func(testing.TB) compute.Backend) {
	for _, f := range formats.All() {
		b.Run("matvec/"+f.Name, func(b *testing.B) { benchMatvec(b, newRig(b, open), f) })
	}
	for _, class := range KVClasses() {
		b.Run("attend/"+class.String(), func(b *testing.B) { benchAttend(b, newRig(b, open), class) })
	}
}

// benchMatvec reports packed bytes and weights a second. The matrices together are
// more than caches hold.
func benchMatvec(b *testing.B, r *rig, f quant.Format) {
	const size, matrices = 4096, 8
	blocks := r.blocks(f)
	data := make([]byte, 0, size*size/f.BlockElems*f.BlockBytes)
	for range size * size / f.BlockElems {
		data = append(data, blocks[r.rng.IntN(len(blocks))]...)
	}
	var ws []compute.Weight
	for range matrices {
		w, err := r.arena.Load(compute.Matrix{Name: "weight", Format: f, Rows: size, Cols: size, Data: data})
		r.check(err)
		ws = append(ws, w)
	}
	x, y := r.buffer(1, size), r.buffer(1, size)
	p := r.be.Begin(oneSpan(0, 1, 0))
	p.Write(x, littleEndian(r.normal(size, 1)))
	r.values(p, x, 1)
	for b.Loop() {
		p := r.be.Begin(oneSpan(0, 1, 0))
		for _, w := range ws {
			p.Linear(y, w, x)
		}
		r.values(p, y, 1)
	}
	n := float64(matrices) * float64(b.N) / b.Elapsed().Seconds()
	b.ReportMetric(n*float64(len(data))/1e9, "GB/s")
	b.ReportMetric(n*size*size/1e9, "Gweights/s")
}

// benchAttend reports positions a second that rows see, and bytes a position. The
// shape is that of a layer of Llama 3.1 8B, behind 8,192 positions.
func benchAttend(b *testing.B, r *rig, class compute.KVClass) {
	const heads, kvHeads, dim, positions, layers = 32, 8, 128, 8192, 8
	const pages = positions/compute.PageTokens + 1
	spec := compute.CacheSpec{Layers: layers, Pages: pages, KVHeads: kvHeads, HeadDim: dim, Class: class}
	if class.Steps() {
		spec.Pools.Recent = pages
	}
	if class.Upper != 0 {
		spec.Pools.Upper = pages
	}
	cache, q := r.cache(spec), r.buffer(1, heads*dim)
	var table []int32
	for i := range int32(pages) {
		table = append(table, i)
	}
	batch := &compute.Batch{Rows: 1, Spans: []compute.Span{{Start: positions, Count: 1, Pages: table, Recent: table, Upper: table}}}
	p := r.be.Begin(batch)
	p.Write(q, littleEndian(r.normal(heads*dim, 1)))
	r.values(p, q, 1)
	for b.Loop() {
		p := r.be.Begin(batch)
		for layer := range layers {
			p.Attend(q, q, cache, layer, compute.Attention{Heads: heads, Scale: 0.08})
		}
		r.values(p, q, 1)
	}
	b.ReportMetric(float64(positions)*layers*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mpositions/s")
	b.ReportMetric(float64(spec.PageBytes())/compute.PageTokens, "B/position")
}
