package computetest

import (
	"fmt"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// Bench measures a layer of the shape of a small model on each weight format, for
// batches of one token, of several sessions' tokens, and of a prompt's chunk. It
// reports rows a second and bytes of weights a second.
func Bench(b *testing.B, open func(testing.TB) compute.Backend) {
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
