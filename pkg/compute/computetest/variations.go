package computetest

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// needs skips a test of operations that the device says it lacks.
func (r *rig) needs(t *testing.T, f compute.Features) {
	if lacks := r.be.Info().Lacks & f; lacks != 0 {
		t.Skipf("the device lacks %s", lacks)
	}
}

// testVariations checks the operations of some architectures against float64.
func testVariations(t *testing.T, r *rig) {
	const rows, heads, dim, eps = 5, 3, 32, 1e-5
	const cols = heads * dim
	batch := oneSpan(0, rows, 0)
	x, y := r.normal(rows*cols, 2), r.normal(rows*cols, 3)
	gain, headGain := r.normal(cols, 1), r.normal(dim, 1)
	deviceX, deviceY := r.buffer(rows, cols), r.buffer(rows, cols)
	w := r.loadF32(cols, cols, r.normal(cols*cols, 0.1))
	for _, c := range []struct {
		name   string
		needs  compute.Features
		record func(p compute.Pass)
		want   func(row, c int) float64
	}{
		{"scale", compute.FeatureScale, func(p compute.Pass) { p.Scale(deviceX, 7.5) },
			func(row, c int) float64 { return 7.5 * float64(x[row*cols+c]) }},
		{"bias", compute.FeatureBias, func(p compute.Pass) { p.AddBias([]compute.Buffer{deviceX}, []compute.Vector{r.vector(gain)}) },
			func(row, c int) float64 { return float64(x[row*cols+c]) + float64(gain[c]) }},
		{"norm of heads", compute.FeatureHeadNorm, func(p compute.Pass) {
			p.NormHeads([]compute.Buffer{deviceX}, []compute.Vector{r.vector(headGain)}, eps)
		},
			func(row, c int) float64 { return normed(x, headGain, eps)[row*heads+c/dim][c%dim] }},
		{"linear", compute.FeatureNormAdd, func(p compute.Pass) { p.Linear(deviceX, w.device, deviceY) },
			func(row, c int) (sum float64) {
				for i, v := range w.row(c) {
					sum += float64(v) * float64(y[row*cols+i])
				}
				return sum
			}},
		{"norm and add", compute.FeatureNormAdd, func(p compute.Pass) { p.NormAdd(deviceX, deviceY, r.vector(gain), eps) },
			func(row, c int) float64 { return float64(x[row*cols+c]) + normed(y, gain, eps)[row][c] }},
		{"soft cap", compute.FeatureSoftCap, func(p compute.Pass) { p.SoftCap(deviceX, rows, 1.5) },
			func(row, c int) float64 { return 1.5 * math.Tanh(float64(x[row*cols+c])/1.5) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.needs(t, c.needs)
			p := r.be.Begin(batch)
			p.Write(deviceX, littleEndian(x))
			p.Write(deviceY, littleEndian(y))
			c.record(p)
			got := r.values(p, deviceX, rows)
			for i, v := range got {
				want := c.want(i/cols, i%cols)
				nearAt(t, c.name, i/cols, i%cols, v, want, 1e-5+1e-5*math.Abs(want))
			}
		})
	}
	t.Run("not finite", func(t *testing.T) { testVariationsNotFinite(t, r) })
}

// testVariationsNotFinite: norms of a row that is not finite mark it and leave
// the others alone.
func testVariationsNotFinite(t *testing.T, r *rig) {
	r.needs(t, compute.FeatureHeadNorm|compute.FeatureNormAdd)
	const rows, cols = 3, 32
	x, y := r.normal(rows*cols, 1), r.normal(rows*cols, 1)
	deviceX, deviceY, gain := r.buffer(rows, cols), r.buffer(rows, cols), r.vector(r.normal(cols, 1))
	for name, record := range map[string]func(compute.Pass){
		"norm of heads": func(p compute.Pass) { p.NormHeads([]compute.Buffer{deviceY}, []compute.Vector{gain}, 1e-5) },
		"norm and add":  func(p compute.Pass) { p.NormAdd(deviceX, deviceY, gain, 1e-5) },
	} {
		run := func(bad float32) ([]float32, compute.Completion) {
			y[cols+3] = bad
			p := r.be.Begin(oneSpan(0, rows, 0))
			p.Write(deviceX, littleEndian(x))
			p.Write(deviceY, littleEndian(y))
			record(p)
			return r.finish(p, deviceX, rows)
		}
		want, _ := run(1)
		got, c := run(float32(math.NaN()))
		if !slices.Equal(c.NotFinite, []int32{1}) {
			t.Errorf("%s: rows %v are marked, want 1", name, c.NotFinite)
		}
		sameBits(t, name+": the row before", got[:cols], want[:cols])
		sameBits(t, name+": the row after", got[2*cols:], want[2*cols:])
	}
}

// mixture is a mixture of experts with its exact values.
type mixture struct {
	router         *matrix
	gate, up, down *matrix
	experts        compute.Experts
}

// testExperts compares a mixture with float64, and a row alone with the same row
// among others bit by bit.
func testExperts(t *testing.T, r *rig, f quant.Format) {
	r.needs(t, compute.FeatureExperts)
	const most, experts, used, eps = 40, 5, 2, 1e-5
	hidden, inner := max(f.BlockElems, 64), max(f.BlockElems, 96)
	m := r.mixture(f, most, experts, used, hidden, inner)
	x, gain := r.normal(most*hidden, 1), r.normal(hidden, 1)
	deviceX, deviceGain := r.buffer(most, hidden), r.vector(gain)
	run := func(rows []float32) []float32 {
		n := len(rows) / hidden
		p := r.be.Begin(oneSpan(0, n, 0))
		p.Write(deviceX, littleEndian(rows))
		p.AddExperts(deviceX, deviceGain, eps, &m.experts)
		return r.values(p, deviceX, n)
	}
	all := run(x)
	inputs := normed(x, gain, eps)
	for row, in := range inputs {
		want, bound := m.forward(in, used)
		for c, v := range all[row*hidden : (row+1)*hidden] {
			nearAt(t, "experts", row, c, v, want[c]+float64(x[row*hidden+c]), bound[c])
		}
	}
	for _, n := range []int{1, 3, 13} {
		sameBits(t, fmt.Sprintf("the first %d rows", n), run(x[:n*hidden]), all[:n*hidden])
	}
	sameBits(t, "the last row alone", run(x[(most-1)*hidden:]), all[(most-1)*hidden:])
}

// mixture makes experts of a format behind a router of float32.
func (r *rig) mixture(f quant.Format, rows, experts, used, hidden, inner int) *mixture {
	m := &mixture{router: r.loadF32(experts, hidden, r.normal(experts*hidden, 0.3))}
	m.experts = compute.Experts{
		Router: m.router.device, Count: experts, Used: used, Act: compute.SiLU,
		Scores: r.buffer(rows, experts), Inner: r.buffer(rows*used, inner), Out: r.buffer(rows*used, hidden),
	}
	m.gate, m.up, m.down = r.load(f, experts*inner, hidden), r.load(f, experts*inner, hidden), r.load(f, experts*hidden, inner)
	m.experts.Gate, m.experts.Up, m.experts.Down = m.gate.device, m.up.device, m.down.device
	return m
}

// forward returns what the chosen experts add to a row with the norm x, and how
// far a device may be off.
func (m *mixture) forward(x []float64, used int) (sum, bound []float64) {
	scores, order := make([]float64, m.router.rows), make([]int, m.router.rows)
	for i := range scores {
		order[i] = i
		for c, v := range m.router.row(i) {
			scores[i] += float64(v) * x[c]
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
	var total float64
	for _, e := range order[:used] {
		total += math.Exp(scores[e])
	}
	sum, bound = make([]float64, len(x)), make([]float64, len(x))
	for _, e := range order[:used] {
		share := math.Exp(scores[e]) / total
		inner, slack := m.inner(e, x)
		for c := range sum {
			v, off := m.down.dot(e*len(x)+c, inner)
			for i, w := range m.down.row(e*len(x) + c) {
				off += math.Abs(float64(w)) * slack[i]
			}
			sum[c] += share * v
			bound[c] += share*off + 1e-5*math.Abs(v)
		}
	}
	return sum, bound
}

// inner returns the gated values of an expert, and how far each may be off.
func (m *mixture) inner(e int, x []float64) (values, slack []float64) {
	n := m.gate.rows / m.router.rows
	for i := e * n; i < (e+1)*n; i++ {
		g, gOff := m.gate.dot(i, x)
		u, uOff := m.up.dot(i, x)
		a := activation(compute.SiLU, g)
		values = append(values, a*u)
		slack = append(slack, 1.1*gOff*(math.Abs(u)+uOff)+math.Abs(a)*uOff+1e-6) // |SiLU'| < 1.1
	}
	return values, slack
}
