package vec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant"
)

// operation is one call of an operation on fixed data.
type operation struct {
	name  string
	flops int // multiplications and additions, of products with pages
	run   func()
}

// cases returns a call of every operation, on rows of 576 (1536 for the
// activations) and pages of heads of dim values shared by n query rows.
func cases(o *Ops, dim, n int) []operation {
	rng := rand.New(rand.NewPCG(1, 2))
	x, y, dst := noise(rng, 1536, 1), noise(rng, 1536, 1), make([]float32, 1536)
	p := newPage(rng, n, dim)
	for r := range p.rows {
		p.rows[r].Last, p.rows[r].Scale = Keys-1, 1
	}
	s, e, out := make([]float32, n*Keys), make([]float32, n*Keys), make([]float32, n*dim)
	cos, sin := make([]float32, 32), make([]float32, 32)
	for i := range cos {
		cos[i], sin[i] = float32(math.Cos(float64(i))), float32(math.Sin(float64(i)))
	}
	page := fmt.Sprintf("/dim=%d/rows=%d", dim, n)
	tile := make([]byte, quant.ActF32.ActBytes(12, 576))
	packed, scales := make([]byte, 2*len(p.keys)), make([]byte, len(p.keys)/32*4)
	flops := 2 * n * dim * Keys
	return []operation{
		{"SumSq/576", 0, func() { o.SumSq(x[:576]) }},
		{"Norm/576", 0, func() { o.Norm(dst[:576], x[:576], y[:576], 0.5) }},
		{"Add/576", 0, func() { o.Add(dst[:576], x[:576]) }},
		{"Exp/576", 0, func() { o.Exp(dst[:576], x[:576]) }},
		{"SiLUMul/1536", 0, func() { o.SiLUMul(dst, x, y) }},
		{"GELUMul/1536", 0, func() { o.GELUMul(dst, x, y) }},
		{"Quantize/576/T=1", 0, func() { o.Quantize(tile, x[:576], 1, 0) }},
		{"Quantize/576/T=12", 0, func() { o.Quantize(tile, x[:576], 12, 5) }},
		{"Tile/576/T=12", 0, func() { o.Tile(tile, x[:576], 12, 5) }},
		{"Rotate/neox/9x64", 0, func() { o.Rotate(x[:576], 64, cos, sin, true) }},
		{"Rotate/pairs/9x64", 0, func() { o.Rotate(x[:576], 64, cos, sin, false) }},
		{"Score" + page, flops, func() { o.Score(s, p.q, p.keys, n, dim, Keys) }},
		{"Softmax" + page, 0, func() { copy(e, s); o.Softmax(e, p.rows, 0.125, 0) }},
		{"Values" + page, flops, func() { o.Values(out, e, p.values, p.rows, dim, Keys) }},
		{"Page" + page, 2 * flops, func() {
			o.Score(s, p.q, p.keys, n, dim, Keys)
			o.Softmax(s, p.rows, 0.125, 0)
			o.Values(out, s, p.values, p.rows, dim, Keys)
		}},
		{fmt.Sprintf("Halves/dim=%d", dim), 0, func() { o.Halves(p.keys, packed) }},
		{fmt.Sprintf("Codes/4/dim=%d", dim), 0, func() { o.Codes(p.keys, packed, scales, 4, 32) }},
		{fmt.Sprintf("Codes/3/dim=%d", dim), 0, func() { o.Codes(p.keys, packed, scales, 3, 32) }},
		{fmt.Sprintf("Codes/2/dim=%d", dim), 0, func() { o.Codes(p.keys, packed, scales, 2, 32) }},
		{fmt.Sprintf("PackCodes/4/dim=%d", dim), 0, func() { PackCodes(packed, scales, p.values, 4, 32) }},
		{"Finish" + page, 0, func() { o.Finish(out[:dim], out[:dim], &p.rows[0]) }},
	}
}

func BenchmarkOps(b *testing.B) {
	for _, l := range levels() {
		all := cases(For(l), 64, 6)
		for _, n := range []int{1, 3} {
			all = append(all, cases(For(l), 64, n)[11:15]...)
		}
		for _, dim := range []int{32, 128} {
			all = append(all, cases(For(l), dim, 6)[14])
		}
		for _, c := range all {
			b.Run(c.name+"/"+l.String(), func(b *testing.B) {
				for b.Loop() {
					c.run()
				}
				if c.flops > 0 {
					b.ReportMetric(float64(c.flops)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
				}
			})
		}
	}
}

// BenchmarkColdPages walks pages that are in no near cache, as a decode step
// finds them.
func BenchmarkColdPages(b *testing.B) {
	const dim, pages = 64, 1024 // 32 MiB
	rng := rand.New(rand.NewPCG(1, 2))
	keys, values := noise(rng, dim*Keys*pages, 1), noise(rng, dim*Keys*pages, 1)
	for _, l := range levels()[1:] {
		for _, n := range []int{1, 3, 6} {
			b.Run(fmt.Sprintf("rows=%d/%s", n, l), func(b *testing.B) {
				o, p := For(l), newPage(rng, n, dim)
				s, out := make([]float32, n*Keys), make([]float32, n*dim)
				for r := range p.rows {
					p.rows[r].Last = Keys - 1
				}
				page := 0
				for b.Loop() {
					at := page * dim * Keys
					o.Score(s, p.q, keys[at:], n, dim, Keys)
					o.Softmax(s, p.rows, 0.125, 0)
					o.Values(out, s, values[at:], p.rows, dim, Keys)
					page = (page + 1) % pages
				}
				b.SetBytes(2 * 4 * dim * Keys)
			})
		}
	}
}
