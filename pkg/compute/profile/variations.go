package profile

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// Scale records.
func (p *pass) Scale(x compute.Buffer, factor float32) {
	p.add("Scale", fmt.Sprint(x.Cols()), call{run: func(to compute.Pass) { to.Scale(x, factor) }})
}

// AddBias records.
func (p *pass) AddBias(xs []compute.Buffer, biases []compute.Vector) {
	p.add("AddBias", widths(xs), call{run: func(to compute.Pass) { to.AddBias(xs, biases) }})
}

// NormHeads records.
func (p *pass) NormHeads(xs []compute.Buffer, gains []compute.Vector, eps float32) {
	p.add("NormHeads", widths(xs), call{run: func(to compute.Pass) { to.NormHeads(xs, gains, eps) }})
}

// widths names the columns of buffers.
func widths(xs []compute.Buffer) string {
	cols := make([]int, len(xs))
	for i, x := range xs {
		cols[i] = x.Cols()
	}
	return fmt.Sprint(cols)
}

// Linear records.
func (p *pass) Linear(dst compute.Buffer, w compute.Weight, y compute.Buffer) {
	shape, bytes, flops := p.product(p.batch.Rows, w)
	p.add("Linear", shape, call{func(to compute.Pass) { to.Linear(dst, w, y) }, bytes, flops})
}

// NormAdd records.
func (p *pass) NormAdd(x, y compute.Buffer, gain compute.Vector, eps float32) {
	p.add("NormAdd", fmt.Sprint(x.Cols()), call{run: func(to compute.Pass) { to.NormAdd(x, y, gain, eps) }})
}

// SoftCap records.
func (p *pass) SoftCap(x compute.Buffer, rows int, limit float32) {
	p.add("SoftCap", fmt.Sprint(x.Cols()), call{run: func(to compute.Pass) { to.SoftCap(x, rows, limit) }})
}

// AddExperts records. As many experts are read as rows may choose at most.
func (p *pass) AddExperts(x compute.Buffer, gain compute.Vector, eps float32, e *compute.Experts) {
	one, bytes, flops := p.product(p.batch.Rows, e.Gate, e.Up, e.Down)
	bytes *= float64(min(e.Count, e.Used*p.batch.Rows)) / float64(e.Count)
	flops *= float64(e.Used) / float64(e.Count)
	_, routerBytes, routerFlops := p.product(p.batch.Rows, e.Router)
	p.add("AddExperts", fmt.Sprintf("%d of %d, %s", e.Used, e.Count, one), call{
		func(to compute.Pass) { to.AddExperts(x, gain, eps, e) }, bytes + routerBytes, flops + routerFlops,
	})
}

// AddLowRank records. Factors are small beside the matrices that they change.
func (p *pass) AddLowRank(dst []compute.Buffer, x compute.Buffer, gain compute.Vector, eps float32, changes [][]*compute.LowRank) {
	p.add("AddLowRank", fmt.Sprintf("%d matrices", len(dst)), call{run: func(to compute.Pass) { to.AddLowRank(dst, x, gain, eps, changes) }})
}

// AdaptedGateUp records.
func (p *pass) AdaptedGateUp(dst, x compute.Buffer, gain compute.Vector, eps float32, ws []compute.Weight, act compute.Activation, rooms []compute.Buffer, changes [][]*compute.LowRank) {
	shape, bytes, flops := p.product(p.batch.Rows, ws...)
	p.add("AdaptedGateUp", shape, call{func(to compute.Pass) { to.AdaptedGateUp(dst, x, gain, eps, ws, act, rooms, changes) }, bytes, flops})
}
