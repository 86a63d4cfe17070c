package cpu

import (
	"fmt"
	"os"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

func TestZSmol(t *testing.T) {
	fn := os.Getenv("ZF")
	if fn == "" {
		t.Skip()
	}
	f, _ := formats.ByName(fn)
	hf, _ := formats.ByName("Q8_0")
	var threads []int
	for _, s := range []int{1, 2, 4, 8, 16}[:zn()] {
		if s <= availableThreads() {
			threads = append(threads, s)
		}
	}
	for round := 0; round < 1; round++ {
		for _, n := range threads {
			smol(t, f, hf, n)
		}
	}
}

func smol(t *testing.T, f, hf interface{ RowBytes(int) (int, error) }, n int) {
	ff, _ := formats.ByName(os.Getenv("ZF"))
	h8, _ := formats.ByName("Q8_0")
	be, err := Open(Config{Threads: n})
	if err != nil {
		t.Fatal(err)
	}
	defer be.Close()
	W := func(rows, cols int, q8 bool) compute.Weight {
		fm := ff
		if q8 {
			fm = h8
		}
		rb, _ := fm.RowBytes(cols)
		data := make([]byte, rb*rows)
		for i := range data {
			data[i] = byte(i * 7)
			if i%fm.BlockBytes == 1 {
				data[i] = 0x0c
			}
		}
		w, err := be.Load(compute.Matrix{Name: "w", Format: fm, Rows: rows, Cols: cols, Data: data})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	B := func(r, c int) compute.Buffer { b, _ := be.NewBuffer(r, c); return b }
	const L, H, F, V, rows = 30, 576, 1536, 49152, 512
	table := W(V, H, true)
	var wq, wk, wv, wo, wg, wu, wd [L]compute.Weight
	for i := range L {
		wq[i], wk[i], wv[i], wo[i] = W(576, H, false), W(192, H, false), W(192, H, false), W(H, 576, false)
		wg[i], wu[i], wd[i] = W(F, H, false), W(F, H, false), W(H, F, false)
	}
	g := make([]float32, H)
	for i := range g {
		g[i] = 0.01
	}
	gain, _ := be.LoadVector(g)
	cache, _ := be.NewCache(compute.CacheSpec{Layers: L, Pages: 64, KVHeads: 3, HeadDim: 64})
	x, q, k, v, o, gu, lg := B(rows, H), B(rows, 576), B(rows, 192), B(rows, 192), B(rows, 576), B(rows, F), B(16, V)
	rope := compute.NewRope(64, 64, 1024, 10000, nil, false)
	out := make([]float32, V*16)
	run := func(b *compute.Batch, heads int) time.Duration {
		p := be.Begin(b)
		p.Embed(x, table, make([]int32, b.Rows))
		for i := range L {
			p.NormLinear([]compute.Buffer{q, k, v}, x, gain, 1e-5, []compute.Weight{wq[i], wk[i], wv[i]})
			p.RopeStore(q, k, v, rope, cache, i)
			p.Attend(o, q, cache, i, compute.Attention{Heads: 9, Scale: 0.125})
			p.LinearAdd(x, wo[i], o)
			p.NormGateUp(gu, x, gain, 1e-5, wg[i], wu[i], compute.SiLU)
			p.LinearAdd(x, wd[i], gu)
		}
		hr := make([]int32, heads)
		for i := range hr {
			hr[i] = int32(i)
		}
		p.Head(lg, x, hr, gain, 1e-5, table)
		p.Submit(1, compute.Read{Src: lg, Rows: heads, Dst: out[:heads*V]})
		c := <-be.Completions()
		return c.Elapsed
	}
	pages := []int32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	one := func(pos int) *compute.Batch {
		return &compute.Batch{Rows: 1, Spans: []compute.Span{{Start: pos, Count: 1, Pages: pages}}}
	}
	for i := range 10 {
		run(one(i), 1)
	}
	start := time.Now()
	var el time.Duration
	for i := range 128 {
		el += run(one(i), 1)
	}
	wall := time.Since(start)
	many := &compute.Batch{Rows: 16}
	for i := range 16 {
		many.Spans = append(many.Spans, compute.Span{Row: i, Start: 100, Count: 1, Pages: []int32{int32(2 * i), int32(2*i + 1)}})
	}
	var em, ep time.Duration
	for range 2 {
		run(many, 16)
	}
	if pf := os.Getenv("ZP"); pf != "" {
		fh, _ := os.Create(pf)
		pprof.StartCPUProfile(fh)
		
	}
	for range 10 {
		em += run(many, 16)
	}
	pprof.StopCPUProfile()
	for range 3 {
		ep += run(&compute.Batch{Rows: 512, Spans: []compute.Span{{Count: 512, Pages: pages}}}, 1)
	}
	fmt.Printf("%s threads %d: decode %.0f tok/s (wall %.0f), 16 streams %.0f tok/s, prefill512 %.0f tok/s\n", ff.Name, n,
		128/el.Seconds(), 128/wall.Seconds(), 160/em.Seconds(), 3*512/ep.Seconds())
}

func zn() int {
	if os.Getenv("ZP") != "" {
		return 1
	}
	return 5
}
