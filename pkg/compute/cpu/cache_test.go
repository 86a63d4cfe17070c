package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/tensor"
)

// attention is one layer's attention of a sequence, fed in parts.
type attention struct {
	t       *testing.T
	be      *Backend
	spec    compute.CacheSpec
	cache   compute.Cache
	q, k, v compute.Buffer
	rope    *compute.Rope
	heads   int
	tag     uint64
}

const attentionRows = 340 // positions: more than five pages

func newAttention(t *testing.T, be *Backend, class compute.KVClass) *attention {
	a := &attention{t: t, be: be, heads: 4, rope: compute.NewRope(32, 32, attentionRows, 10000, nil, true)}
	a.spec = compute.CacheSpec{Layers: 1, Pages: 16, KVHeads: 2, HeadDim: 64, Class: class}
	a.spec.Pools = compute.KVPools{Recent: 14, Upper: 13}
	arena := be.NewArena()
	var err error
	if a.cache, err = arena.NewCache(a.spec); err != nil {
		t.Fatal(err)
	}
	if got := arena.Used().Caches; got != a.spec.Bytes() {
		t.Errorf("%s: %d bytes held, %d said", class, got, a.spec.Bytes())
	}
	for dst, heads := range map[*compute.Buffer]int{&a.q: a.heads, &a.k: a.spec.KVHeads, &a.v: a.spec.KVHeads} {
		if *dst, err = arena.NewBuffer(2*attentionRows, heads*a.spec.HeadDim); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// inputs are rows of queries, keys and values of a sequence.
type inputs struct{ q, k, v []float32 }

func newInputs(seed uint64) inputs {
	rng := rand.New(rand.NewPCG(seed, 7))
	draw := func(n int) []float32 {
		out := make([]float32, n)
		for i := range out {
			out[i] = float32(rng.NormFloat64())
			if i%64 == 5 { // a channel of large values, as keys have
				out[i] *= 8
			}
		}
		return out
	}
	return inputs{draw(attentionRows * 256), draw(attentionRows * 128), draw(attentionRows * 128)}
}

// step runs spans of inputs and returns the rows that came out.
func (a *attention) step(spans []compute.Span, from []inputs) []float32 {
	a.t.Helper()
	b := compute.Batch{Spans: spans}
	for i, s := range spans {
		spans[i].Row = b.Rows
		spans[i].Recent, spans[i].Upper = a.finer(s.Pages)
		for dst, src := range map[compute.Buffer][]float32{a.q: from[i].q, a.k: from[i].k, a.v: from[i].v} {
			for r := range s.Count {
				copy(dst.(*buffer).row(b.Rows+r), src[(s.Start+r)*dst.Cols():][:dst.Cols()])
			}
		}
		b.Rows += s.Count
	}
	p := a.be.Begin(&b)
	p.RopeStore(a.q, a.k, a.v, a.rope, a.cache, 0)
	p.Attend(a.q, a.q, a.cache, 0, compute.Attention{Heads: a.heads, Scale: 0.125})
	out := make([]float32, b.Rows*a.q.Cols())
	a.tag++
	p.Submit(a.tag, compute.Read{Src: a.q, Rows: b.Rows, Dst: out})
	if c := <-a.be.Completions(); c.Err != nil {
		a.t.Fatal(c.Err)
	}
	return out
}

// finer returns places of the finer forms of pages: some of their own.
func (a *attention) finer(pages []int32) (recent, upper []int32) {
	for _, page := range pages {
		recent, upper = append(recent, 13-page), append(upper, page*5%13)
	}
	return recent, upper
}

// whole runs all of a sequence in parts of up to chunk rows.
func (a *attention) whole(in inputs, pages []int32, chunk int) (out []float32) {
	for at := 0; at < attentionRows; at += chunk {
		n := min(chunk, attentionRows-at)
		out = append(out, a.step([]compute.Span{{Start: at, Count: n, Pages: pages}}, []inputs{in})...)
	}
	return out
}

func kvClasses() []compute.KVClass {
	return []compute.KVClass{
		{}, {Bits: 16}, {Bits: 8, Group: 32}, {Bits: 4, Group: 32, Recent: 64}, {Bits: 4, Group: 64, Recent: 128}, {Bits: 3, Group: 32, Recent: 64},
		{Bits: 2, Group: 32, Recent: 64}, {Bits: 3, Group: 32, Recent: 64, Upper: 4, Far: 192}, {Bits: 2, Group: 64, Recent: 64, Upper: 3, Far: 128},
	}
}

// TestKVClassKeepsLawOne: parts, pages, threads, company, replay and the level of
// the instruction set do not change a bit of any class.
func TestKVClassKeepsLawOne(t *testing.T) {
	in, other := newInputs(1), newInputs(2)
	pages, elsewhere := []int32{0, 1, 2, 8, 9, 10}, []int32{7, 3, 5, 12, 11, 4}
	for _, class := range kvClasses() {
		t.Run(class.String(), func(t *testing.T) {
			be := open(t, Config{Threads: 2})
			a := newAttention(t, be, class)
			want := a.whole(in, pages, attentionRows)
			check := func(how string, got []float32) {
				t.Helper()
				if !slices.Equal(bitsOf(got), bitsOf(want)) {
					t.Errorf("%s: other bits", how)
				}
			}
			for _, chunk := range []int{1, 7, 63, 64, 100} {
				check(fmt.Sprintf("in parts of %d", chunk), newAttention(t, be, class).whole(in, elsewhere, chunk))
			}
			check("replayed over what was there", a.whole(in, pages, 50))
			both := a.step([]compute.Span{{Count: attentionRows, Pages: elsewhere}, {Count: attentionRows, Pages: pages}}, []inputs{other, in})
			check("beside another", both[len(both)/2:])
			portable := quant.Portable
			check("portable", newAttention(t, open(t, Config{Threads: 1, Level: &portable}), class).whole(in, pages, 64))
		})
	}
}

func bitsOf(x []float32) []uint32 {
	out := make([]uint32, len(x))
	for i, v := range x {
		out[i] = math.Float32bits(v)
	}
	return out
}

// TestKVClassIsClose: fewer bits are farther from float32, in order, and none is
// farther than its step allows.
func TestKVClassIsClose(t *testing.T) {
	be := open(t, Config{Threads: 1})
	in, pages := newInputs(3), []int32{0, 1, 2, 3, 4, 5}
	exact := newAttention(t, be, compute.KVClass{}).whole(in, pages, attentionRows)
	last := 0.0
	for _, c := range []struct {
		class compute.KVClass
		most  float64
	}{
		{compute.KVClass{Bits: 16}, 0.002}, {compute.KVClass{Bits: 8, Group: 32}, 0.02}, {compute.KVClass{Bits: 4, Group: 32, Recent: 64}, 0.15},
		{compute.KVClass{Bits: 3, Group: 32, Recent: 64, Upper: 4, Far: 128}, 0.22}, {compute.KVClass{Bits: 3, Group: 32, Recent: 64}, 0.28},
		{compute.KVClass{Bits: 2, Group: 32, Recent: 64, Upper: 3, Far: 128}, 0.45}, {compute.KVClass{Bits: 2, Group: 32, Recent: 64}, 0.55},
	} {
		got := newAttention(t, be, c.class).whole(in, pages, attentionRows)
		var sum, size float64
		for i, v := range got {
			sum += float64(v-exact[i]) * float64(v-exact[i])
			size += float64(exact[i]) * float64(exact[i])
		}
		away := math.Sqrt(sum / size)
		if away <= last || away > c.most {
			t.Errorf("%s is %.4f away, the class before it %.4f; at most %g", c.class, away, last, c.most)
		}
		last = away
	}
}

// TestClearedPackedPageReadsAsZero, whatever was there.
func TestClearedPackedPageReadsAsZero(t *testing.T) {
	be := open(t, Config{Threads: 1})
	for _, class := range kvClasses() {
		a := newAttention(t, be, class)
		pages := []int32{0, 1, 2, 3, 4, 5}
		a.whole(newInputs(4), pages, attentionRows)
		c, room := a.cache.(*cache), make([]float32, 64*compute.PageTokens)
		span := compute.Span{Pages: pages}
		span.Recent, span.Upper = a.finer(pages)
		gone := c.home(&span, 1)
		b := compute.Batch{}
		p := be.Begin(&b)
		p.ClearPages(a.cache, []int32{gone.page})
		p.Submit(99)
		if c := <-be.Completions(); c.Err != nil {
			t.Fatal(c.Err)
		}
		for head := range 2 {
			for _, page := range [][]float32{c.keys(0, gone, head, room), c.values(0, gone, head, room)} {
				if i := slices.IndexFunc(page, func(v float32) bool { return v != 0 }); i >= 0 {
					t.Errorf("%s: value %d of head %d is %g", class, i, head, page[i])
				}
			}
		}
		if page := c.keys(0, c.home(&span, 0), 0, room); !slices.ContainsFunc(page, func(v float32) bool { return v != 0 }) {
			t.Errorf("%s: the page before it is gone", class)
		}
	}
}

// TestWhatHalvesDoNotHoldIsNotANumber: it never becomes a clean value.
func TestWhatHalvesDoNotHoldIsNotANumber(t *testing.T) {
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), 1e6, -1e6} {
		x := make([]float32, 32)
		x[9] = bad
		scale, least := packGroup(make([]byte, 32), x)
		if v := tensor.F16ToF32(scale) + tensor.F16ToF32(least); v == v {
			t.Errorf("%g among zeros reads as %g", bad, v)
		}
	}
}

// TestRowsSeeOthersByDistance: a page is read in the form that the class says,
// wherever the reading row stands in a step.
func TestRowsSeeOthersByDistance(t *testing.T) {
	be := open(t, Config{Threads: 1})
	a := newAttention(t, be, compute.KVClass{Bits: 2, Group: 32, Recent: 64, Upper: 4, Far: 192})
	c := a.cache.(*cache)
	span := compute.Span{Pages: make([]int32, 8), Recent: make([]int32, 8), Upper: make([]int32, 8)}
	for query := range 8 {
		for page := range query + 1 {
			want := 2
			switch {
			case page == 0 || query-page <= 1:
				want = 16
			case query-page <= 3:
				want = 4
			}
			if got := c.form(&span, query, page).pool.bits; got != want {
				t.Errorf("a row of page %d sees page %d in %d bits, want %d", query, page, got, want)
			}
		}
	}
}

// TestReferenceKeepsFloat32: it says so.
func TestReferenceKeepsFloat32(t *testing.T) {
	be := open(t, Config{Threads: 1, Reference: true})
	_, err := be.NewArena().NewCache(compute.CacheSpec{Layers: 1, Pages: 1, KVHeads: 1, HeadDim: 64, Class: compute.KVClass{Bits: 16}})
	if err == nil {
		t.Error("the reference took a cache of 16 bits")
	}
}
