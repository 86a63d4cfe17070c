package computetest

import (
	"fmt"
	"math"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// geometry is a shape of attention.
type geometry struct{ heads, kvHeads, dim int }

var geometries = []geometry{{4, 4, 32}, {9, 3, 64}, {8, 2, 64}, {7, 1, 64}, {4, 1, 128}, {2, 2, 16}}

// testAttention computes sessions of several lengths in chunks and compares every
// row with float64.
func testAttention(t *testing.T, r *rig) {
	for _, g := range geometries {
		for i, a := range []compute.Attention{
			{Scale: 0.17}, {Scale: 0.3, Window: 1}, {Scale: 0.3, Window: 70}, {Scale: 0.5, SoftCap: 8},
		} {
			a.Heads = g.heads
			neox := i%2 == 0
			name := fmt.Sprintf("%d heads share %d of %d, window %d, cap %g, neox %v", g.heads, g.kvHeads, g.dim, a.Window, a.SoftCap, neox)
			testAttend(t, r, name, g, a, compute.NewRope(g.dim, g.dim/2+g.dim/4, 200, 1000, nil, neox))
		}
	}
}

// session is what the float64 code knows of one session.
type session struct {
	q, k, v [][]float32 // by position, rotated
	pages   []int32
}

func testAttend(t *testing.T, r *rig, name string, g geometry, a compute.Attention, rope *compute.Rope) {
	sessions := []*session{{pages: []int32{5, 0, 3}}, {pages: []int32{1}}, {pages: []int32{4, 2}}}
	cache := r.cache(compute.CacheSpec{Layers: 2, Pages: 6, KVHeads: g.kvHeads, HeadDim: g.dim})
	const most = 100
	q, k, v, out := r.buffer(most, g.heads*g.dim), r.buffer(most, g.kvHeads*g.dim), r.buffer(most, g.kvHeads*g.dim), r.buffer(most, g.heads*g.dim)
	for _, counts := range [][]int{{62, 20, 1}, {5, 0, 65}, {1, 1, 1}} {
		batch := &compute.Batch{}
		var rows [3][]float32
		for i, s := range sessions {
			if counts[i] == 0 {
				continue
			}
			batch.Spans = append(batch.Spans, compute.Span{Row: batch.Rows, Start: len(s.k), Count: counts[i], Pages: s.pages})
			batch.Rows += counts[i]
			for range counts[i] {
				rows[0] = append(rows[0], s.extend(&s.q, r.normal(g.heads*g.dim, 1), g.dim, rope)...)
				rows[1] = append(rows[1], s.extend(&s.k, r.normal(g.kvHeads*g.dim, 1), g.dim, rope)...)
				rows[2] = append(rows[2], s.extend(&s.v, r.normal(g.kvHeads*g.dim, 1), g.dim, nil)...)
			}
		}
		p := r.be.Begin(batch)
		p.Write(q, littleEndian(rows[0]))
		p.Write(k, littleEndian(rows[1]))
		p.Write(v, littleEndian(rows[2]))
		p.RopeStore(q, k, v, rope, cache, 1)
		p.Attend(out, q, cache, 1, a)
		got := r.values(p, out, batch.Rows)
		row := 0
		for i, s := range sessions {
			for n := counts[i]; n > 0; n-- {
				position := len(s.k) - n
				what := fmt.Sprintf("%s: session %d position %d", name, i, position)
				for c, want := range attended(s, position, g, a) {
					nearAt(t, what, row, c, got[row*g.heads*g.dim+c], want, 3e-5)
				}
				row++
			}
		}
	}
}

// extend appends a row to a session after rotating it, and returns the row as it
// was.
func (s *session) extend(to *[][]float32, row []float32, dim int, rope *compute.Rope) []float32 {
	stored := append([]float32(nil), row...)
	if rope != nil {
		position := len(*to)
		for at := 0; at < len(row); at += dim {
			rotate(stored[at:at+dim], position, rope)
		}
	}
	*to = append(*to, stored)
	return row
}

func rotate(x []float32, position int, rope *compute.Rope) {
	for i := range rope.Pairs {
		a, b := 2*i, 2*i+1
		if rope.Neox {
			a, b = i, i+rope.Pairs
		}
		cos, sin := float64(rope.Cos[position*rope.Pairs+i]), float64(rope.Sin[position*rope.Pairs+i])
		u, v := float64(x[a]), float64(x[b])
		x[a], x[b] = float32(u*cos-v*sin), float32(v*cos+u*sin)
	}
}

// attended returns the attention of one position in float64.
func attended(s *session, position int, g geometry, a compute.Attention) []float64 {
	out := make([]float64, g.heads*g.dim)
	first := 0
	if a.Window > 0 {
		first = max(0, position-a.Window+1)
	}
	for head := range g.heads {
		kv := head / (g.heads / g.kvHeads) * g.dim
		var total float64
		mixed := out[head*g.dim : (head+1)*g.dim]
		for key := first; key <= position; key++ {
			var score float64
			for d := range g.dim {
				score += float64(s.q[position][head*g.dim+d]) * float64(s.k[key][kv+d])
			}
			score *= float64(a.Scale)
			if a.SoftCap > 0 {
				score = float64(a.SoftCap) * math.Tanh(score/float64(a.SoftCap))
			}
			weight := math.Exp(score)
			total += weight
			for d := range mixed {
				mixed[d] += weight * float64(s.v[key][kv+d])
			}
		}
		for d := range mixed {
			mixed[d] /= total
		}
	}
	return out
}
