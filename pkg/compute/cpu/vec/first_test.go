package vec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// TestFirstKeys: to take the first keys of a page, up to the last one seen, gives
// the result of the whole page on every level, whatever lies in the scores of the
// others.
func TestFirstKeys(t *testing.T) {
	const dim = 24
	rng := rand.New(rand.NewPCG(31, 32))
	for rows := 1; rows <= MaxRows; rows++ {
		p := newPage(rng, rows, dim)
		for n := 1; n <= Keys; n++ {
			for r := range p.rows {
				p.rows[r].Last = int32(n - 1 - r%n) // row 0 sees most
			}
			want := attendFirst(For(quant.Portable), p, Keys)
			for _, level := range levels() {
				same(t, fmt.Sprintf("%s, %d rows, %d keys", level, rows, n), attendFirst(For(level), p, n), want)
			}
		}
	}
}

// attendFirst returns the outputs over the first n keys of a page.
func attendFirst(ops *Ops, p page, n int) (out []float32) {
	rows, dim := append([]Row(nil), p.rows...), len(p.values)/Keys
	s, o := make([]float32, len(rows)*Keys), make([]float32, len(rows)*dim)
	for i := range s {
		s[i] = float32(math.NaN()) // of an earlier page
	}
	ops.Score(s, p.q, p.keys, len(rows), dim, n)
	ops.Softmax(s, rows, 0.125, 0)
	ops.Values(o, s, p.values, rows, dim, n)
	for r := range rows {
		dst := make([]float32, dim)
		ops.Finish(dst, o[r*dim:(r+1)*dim], &rows[r])
		out = append(out, dst...)
	}
	return out
}
