package computetest

import (
	"fmt"
	"math"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// change is a low-rank change with its exact values.
type change struct {
	a, b *matrix
	low  compute.LowRank
}

func (r *rig) change(rows, cols, rank int) *change {
	c := &change{a: r.loadF32(rank, cols, r.normal(rank*cols, 0.3)), b: r.loadF32(rows, rank, r.normal(rows*rank, 0.3))}
	c.low = compute.LowRank{A: c.a.device, B: c.b.device, Scale: 0.75}
	return c
}

// of returns what the change adds to value row of the product with x.
func (c *change) of(row int, x []float64) (sum float64) {
	for k := range c.a.rows {
		low := 0.0
		for i, v := range c.a.row(k) {
			low += float64(v) * x[i]
		}
		sum += float64(c.b.row(row)[k]) * low
	}
	return sum * float64(c.low.Scale)
}

// testLowRank compares changes with float64: rows of two adapters and of none in one
// batch, of which some matrices are changed by one adapter alone. What a row gets does
// not depend on the others, and a row without an adapter gets nothing.
func testLowRank(t *testing.T, r *rig) {
	r.needs(t, compute.FeatureLowRank)
	const cols, rows, eps = 72, 40, 1e-5
	adapters := []int{1, 0, 2, 1, 2}
	counts := []int{3, 2, 14, 1, 5}
	batch, of := &compute.Batch{}, []int{}
	for i, n := range counts {
		batch.Spans = append(batch.Spans, compute.Span{Row: batch.Rows, Count: n, Pages: []int32{int32(i)}, Adapter: adapters[i]})
		batch.Rows += n
		for range n {
			of = append(of, adapters[i])
		}
	}
	x, start := r.normal(batch.Rows*cols, 1), r.normal(batch.Rows*rows, 1)
	gain := r.normal(cols, 1)
	src, first, second := r.buffer(batch.Rows, cols), r.buffer(batch.Rows, rows), r.buffer(batch.Rows, rows)
	a, b, only := r.change(rows, cols, 3), r.change(rows, cols, 20), r.change(rows, cols, 4)
	changes := [][]*compute.LowRank{{&a.low, &b.low}, {nil, &only.low}}
	for _, normed1 := range []bool{true, false} {
		var vector compute.Vector
		in := make([][]float64, batch.Rows)
		for i := range in {
			for _, v := range x[i*cols : (i+1)*cols] {
				in[i] = append(in[i], float64(v))
			}
		}
		if normed1 {
			vector, in = r.vector(gain), normed(x, gain, eps)
		}
		run := func(dst compute.Buffer) []float32 {
			p := r.be.Begin(batch)
			p.Write(src, littleEndian(x))
			p.Write(first, littleEndian(start))
			p.Write(second, littleEndian(start))
			p.AddLowRank([]compute.Buffer{first, second}, src, vector, eps, changes)
			return r.values(p, dst, batch.Rows)
		}
		for k, got := range [][]float32{run(first), run(second)} {
			for i, v := range got {
				row, c := i/rows, i%rows
				want := float64(start[i])
				switch of[row] {
				case 0:
					if v != start[i] {
						t.Fatalf("matrix %d: row %d has no adapter and has changed", k, row)
					}
				case 1:
					if k == 0 {
						want += a.of(c, in[row])
					}
				case 2:
					want += [](*change){b, only}[k].of(c, in[row])
				}
				nearAt(t, fmt.Sprintf("matrix %d", k), row, c, v, want, 1e-5*(1+math.Abs(want)))
			}
		}
	}
	t.Run("gate and up", func(t *testing.T) { testAdaptedGateUp(t, r, x, gain) })
}

// testAdaptedGateUp: rows without an adapter have the bits of NormGateUp, others those
// of a pass of their own, near to float64.
func testAdaptedGateUp(t *testing.T, r *rig, x, gain []float32) {
	const cols, rows, eps = 72, 48, 1e-5
	gate, up := r.loadF32(rows, cols, r.normal(rows*cols, 0.2)), r.loadF32(rows, cols, r.normal(rows*cols, 0.2))
	one := r.change(rows, cols, 5)
	g := r.vector(gain)
	in := normed(x, gain, eps)
	for _, act := range []compute.Activation{compute.SiLU, compute.GELUTanh} {
		run := func(from, end int, adapters ...int) []float32 {
			n := end - from
			src, dst, rooms := r.buffer(n, cols), r.buffer(n, rows), []compute.Buffer{r.buffer(n, rows), r.buffer(n, rows)}
			batch := &compute.Batch{Rows: n}
			for i := range n {
				batch.Spans = append(batch.Spans, compute.Span{Row: i, Count: 1, Pages: []int32{0}, Adapter: adapters[i]})
			}
			p := r.be.Begin(batch)
			p.Write(src, littleEndian(x[from*cols:end*cols]))
			p.AdaptedGateUp(dst, src, g, eps, []compute.Weight{gate.device, up.device}, act, rooms, [][]*compute.LowRank{nil, {&one.low}})
			return r.values(p, dst, n)
		}
		plain, mixed := run(0, 4, 0, 0, 0, 0), run(0, 4, 0, 1, 0, 1)
		for _, row := range []int{0, 2} {
			sameBits(t, "a row without an adapter", mixed[row*rows:(row+1)*rows], plain[row*rows:(row+1)*rows])
		}
		sameBits(t, "a row alone", run(3, 4, 1), mixed[3*rows:])
		for c := range rows {
			gs, gb := gate.dot(c, in[3])
			us, ub := up.dot(c, in[3])
			us += one.of(c, in[3])
			want := activation(act, gs) * us
			nearAt(t, "an adapted row", 3, c, mixed[3*rows+c], want, 1e-5*(1+math.Abs(want))+gb*math.Abs(us)+ub*math.Abs(gs))
		}
	}
}
