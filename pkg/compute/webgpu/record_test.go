//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"errors"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// BenchmarkRecord measures what the processor does for a decode step of 32 layers:
// recording without a device's work.
func BenchmarkRecord(b *testing.B) {
	be, err := open(Config{Software: true})
	if errors.Is(err, ErrUnavailable) {
		b.Skip(err)
	}
	if err != nil {
		b.Fatal(err)
	}
	defer be.Close()
	a := be.NewArena()
	f, _ := formats.ByName("Q4_0")
	matrix := func(rows, cols int) compute.Weight {
		w, err := a.Load(compute.Matrix{Name: "w", Format: f, Rows: rows, Cols: cols, Data: make([]byte, rows*cols/32*18)})
		if err != nil {
			b.Fatal(err)
		}
		return w
	}
	buffer := func(cols int) compute.Buffer {
		x, err := a.NewBuffer(1, cols)
		if err != nil {
			b.Fatal(err)
		}
		return x
	}
	const layers, hidden = 32, 64
	type layer struct{ q, k, v, o, gate, up, down compute.Weight }
	var ls []layer
	for range layers {
		ls = append(ls, layer{matrix(hidden, hidden), matrix(hidden, hidden), matrix(hidden, hidden), matrix(hidden, hidden), matrix(hidden, hidden), matrix(hidden, hidden), matrix(hidden, hidden)})
	}
	table := matrix(64, hidden)
	gain, _ := a.LoadVector(make([]float32, hidden))
	cache, err := a.NewCache(compute.CacheSpec{Layers: layers, Pages: 1, KVHeads: 1, HeadDim: hidden})
	if err != nil {
		b.Fatal(err)
	}
	x, q, k, v, ff, logits := buffer(hidden), buffer(hidden), buffer(hidden), buffer(hidden), buffer(hidden), buffer(64)
	rope := compute.NewRope(hidden, hidden, 64, 10000, nil, false)
	batch := compute.Batch{Rows: 1, Spans: []compute.Span{{Count: 1, Pages: []int32{0}}}}
	dst := make([]float32, 64)
	qkv := []compute.Buffer{q, k, v}
	var took time.Duration
	step := func() {
		began := time.Now()
		p := be.Begin(&batch)
		p.Embed(x, table, []int32{1})
		for i := range ls {
			l := &ls[i]
			p.NormLinear(qkv, x, gain, 1e-5, []compute.Weight{l.q, l.k, l.v})
			p.RopeStore(q, k, v, rope, cache, i)
			p.Attend(q, q, cache, i, compute.Attention{Heads: 1, Scale: 1})
			p.LinearAdd(x, l.o, q)
			p.NormGateUp(ff, x, gain, 1e-5, l.gate, l.up, compute.SiLU)
			p.LinearAdd(x, l.down, ff)
		}
		p.Head(logits, x, []int32{0}, gain, 1e-5, table)
		took += time.Since(began)
		p.Submit(1, compute.Read{Src: logits, Rows: 1, Dst: dst})
		if c := <-be.Completions(); c.Err != nil {
			b.Fatal(c.Err)
		}
	}
	step()
	took = 0
	for b.Loop() {
		step()
	}
	b.ReportMetric(float64(took)/float64(b.N), "record-ns/op")
}
