package profile

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// product is what a product of rows rows with weights costs.
func (p *pass) product(rows int, ws ...compute.Weight) (shape string, bytes, flops float64) {
	for _, w := range ws {
		n, k := w.Shape()
		if shape += fmt.Sprintf("%d×%d", n, k); len(ws) > 1 {
			shape += " "
		}
		bytes += float64(n) * float64(k) * p.b.loads[w]
		flops += 2 * float64(n) * float64(k) * float64(rows)
	}
	return shape, bytes, flops
}

// ClearPages records.
func (p *pass) ClearPages(c compute.Cache, pages []int32) {
	p.add("ClearPages", "", call{run: func(to compute.Pass) { to.ClearPages(c, pages) }})
}

// Write records.
func (p *pass) Write(dst compute.Buffer, rows []byte) {
	p.add("Write", fmt.Sprint(dst.Cols()), call{run: func(to compute.Pass) { to.Write(dst, rows) }})
}

// Overwrite records.
func (p *pass) Overwrite(dst compute.Buffer, at []int32, rows []byte) {
	p.add("Overwrite", fmt.Sprint(dst.Cols()), call{run: func(to compute.Pass) { to.Overwrite(dst, at, rows) }})
}

// Embed records.
func (p *pass) Embed(dst compute.Buffer, table compute.Weight, ids []int32) {
	n, k := table.Shape()
	p.add("Embed", fmt.Sprintf("%d×%d", n, k), call{
		run: func(to compute.Pass) { to.Embed(dst, table, ids) }, bytes: float64(len(ids)*k) * p.b.loads[table],
	})
}

// NormLinear records.
func (p *pass) NormLinear(dst []compute.Buffer, x compute.Buffer, gain compute.Vector, eps float32, ws []compute.Weight) {
	shape, bytes, flops := p.product(p.batch.Rows, ws...)
	p.add("NormLinear", shape, call{func(to compute.Pass) { to.NormLinear(dst, x, gain, eps, ws) }, bytes, flops})
}

// RopeStore records.
func (p *pass) RopeStore(q, k, v compute.Buffer, rope *compute.Rope, c compute.Cache, layer int) {
	p.add("RopeStore", fmt.Sprintf("%d and %d", q.Cols(), k.Cols()), call{run: func(to compute.Pass) { to.RopeStore(q, k, v, rope, c, layer) }})
}

// Attend records.
func (p *pass) Attend(dst, q compute.Buffer, c compute.Cache, layer int, a compute.Attention) {
	spec := c.Spec()
	var keys, pairs float64 // keys that a span reads; pairs of a row and a key
	for _, s := range p.batch.Spans {
		keys += float64(s.Start + s.Count)
		pairs += float64(s.Count) * (float64(s.Start) + float64(s.Count+1)/2)
	}
	p.add("Attend", fmt.Sprintf("%d heads, %d of keys, of %d", a.Heads, spec.KVHeads, spec.HeadDim), call{
		run:   func(to compute.Pass) { to.Attend(dst, q, c, layer, a) },
		bytes: keys * float64(2*spec.KVHeads*spec.HeadDim) * p.b.pages[c],
		flops: pairs * 4 * float64(a.Heads*spec.HeadDim),
	})
}

// LinearAdd records.
func (p *pass) LinearAdd(x compute.Buffer, w compute.Weight, y compute.Buffer) {
	shape, bytes, flops := p.product(p.batch.Rows, w)
	p.add("LinearAdd", shape, call{func(to compute.Pass) { to.LinearAdd(x, w, y) }, bytes, flops})
}

// NormGateUp records.
func (p *pass) NormGateUp(dst, x compute.Buffer, gain compute.Vector, eps float32, gate, up compute.Weight, act compute.Activation) {
	shape, bytes, flops := p.product(p.batch.Rows, gate, up)
	p.add("NormGateUp", shape, call{func(to compute.Pass) { to.NormGateUp(dst, x, gain, eps, gate, up, act) }, bytes, flops})
}

// Head records.
func (p *pass) Head(dst, x compute.Buffer, rows []int32, gain compute.Vector, eps float32, w compute.Weight) {
	shape, bytes, flops := p.product(len(rows), w)
	p.add("Head", shape, call{func(to compute.Pass) { to.Head(dst, x, rows, gain, eps, w) }, bytes, flops})
}

// Pick records.
func (p *pass) Pick(dst, x compute.Buffer, rows int) {
	p.add("Pick", fmt.Sprint(x.Cols()), call{run: func(to compute.Pass) { to.Pick(dst, x, rows) }})
}
