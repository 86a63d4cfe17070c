package computetest

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// kvClass is a class of KV caches and how far attention over it may be from exact
// attention: the root of the mean square error over the root of the mean square.
type kvClass struct {
	class compute.KVClass
	most  float64
}

func kvClasses() []kvClass {
	return []kvClass{
		{compute.KVClass{}, 1e-5},
		{compute.KVClass{Bits: 16}, 0.002},
		{compute.KVClass{Bits: 8, Group: 32}, 0.02},
		{compute.KVClass{Bits: 8, Group: 64}, 0.02},
		{compute.KVClass{Bits: 4, Group: 32, Recent: 64}, 0.15},
		{compute.KVClass{Bits: 4, Group: 64, Recent: 128}, 0.15},
		{compute.KVClass{Bits: 3, Group: 32, Recent: 64}, 0.28},
		{compute.KVClass{Bits: 3, Group: 32, Recent: 64, Upper: 4, Far: 128}, 0.25},
		{compute.KVClass{Bits: 2, Group: 32, Recent: 64}, 0.55},
		{compute.KVClass{Bits: 2, Group: 64, Recent: 64, Upper: 3, Far: 128}, 0.5},
	}
}

// KVClasses are the classes of caches that every backend is tested with.
func KVClasses() []compute.KVClass {
	var out []compute.KVClass
	for _, c := range kvClasses() {
		out = append(out, c.class)
	}
	return out
}

// The shape of the tested attention: more than a split of a GPU's, and pages in
// all forms of a class with two steps.
const (
	kvRows    = 270
	kvHeads   = 4
	kvKVHeads = 2
	kvDim     = 64
	kvPages   = 12
)

// kvSequence is rows of queries, keys and values.
type kvSequence struct{ q, k, v []float32 }

func newKVSequence(seed uint64) kvSequence {
	rng := rand.New(rand.NewPCG(seed, 7))
	draw := func(n int) []float32 {
		out := make([]float32, n)
		for i := range out {
			out[i] = float32(rng.NormFloat64())
			if i%kvDim == 5 { // a channel of large values, as keys have
				out[i] *= 8
			}
		}
		return out
	}
	return kvSequence{draw(kvRows * kvHeads * kvDim), draw(kvRows * kvKVHeads * kvDim), draw(kvRows * kvKVHeads * kvDim)}
}

// kvAttention is the attention of a layer over a cache.
type kvAttention struct {
	r            *rig
	cache        compute.Cache
	q, k, v, out compute.Buffer
	rope         *compute.Rope
	window       int
}

func newKVAttention(r *rig, class compute.KVClass) *kvAttention {
	spec := compute.CacheSpec{Layers: 1, Pages: kvPages, KVHeads: kvKVHeads, HeadDim: kvDim, Class: class}
	if class.Steps() {
		spec.Pools.Recent = kvPages - 1
	}
	if class.Upper != 0 {
		spec.Pools.Upper = kvPages + 1
	}
	before := r.be.Used().Caches
	a := &kvAttention{
		r: r, cache: r.cache(spec), rope: compute.NewRope(kvDim, kvDim/2, kvRows, 10000, nil, true),
		q: r.buffer(2*kvRows, kvHeads*kvDim), out: r.buffer(2*kvRows, kvHeads*kvDim),
		k: r.buffer(2*kvRows, kvKVHeads*kvDim), v: r.buffer(2*kvRows, kvKVHeads*kvDim),
	}
	if got, want := r.be.Used().Caches-before, spec.Bytes(); got < want || got > want+want/50 {
		r.tb.Errorf("%s: %d bytes held, %d said", class, got, want)
	}
	return a
}

// step runs spans of sequences in one pass and returns the rows that came out.
func (a *kvAttention) step(spans []compute.Span, from ...kvSequence) []float32 {
	b := compute.Batch{Spans: spans}
	var q, k, v []float32
	for i := range spans {
		s := &spans[i]
		s.Row = b.Rows
		if spec := a.cache.Spec(); spec.Class.Steps() {
			s.Recent, s.Upper = nil, nil
			for _, page := range s.Pages { // places other than the pages'
				s.Recent = append(s.Recent, kvPages-2-page)
				s.Upper = append(s.Upper, page*5%(kvPages+1))
			}
		}
		take := func(to, rows []float32, cols int) []float32 {
			return append(to, rows[s.Start*cols:(s.Start+s.Count)*cols]...)
		}
		q, k, v = take(q, from[i].q, kvHeads*kvDim), take(k, from[i].k, kvKVHeads*kvDim), take(v, from[i].v, kvKVHeads*kvDim)
		b.Rows += s.Count
	}
	p := a.r.be.Begin(&b)
	p.Write(a.q, littleEndian(q))
	p.Write(a.k, littleEndian(k))
	p.Write(a.v, littleEndian(v))
	p.RopeStore(a.q, a.k, a.v, a.rope, a.cache, 0)
	p.Attend(a.out, a.q, a.cache, 0, compute.Attention{Heads: kvHeads, Scale: 0.125, Window: a.window})
	return a.r.values(p, a.out, b.Rows)
}

// whole runs all of a sequence in parts of up to chunk rows.
func (a *kvAttention) whole(in kvSequence, pages []int32, chunk int) (out []float32) {
	for at := 0; at < kvRows; at += chunk {
		out = append(out, a.step([]compute.Span{{Start: at, Count: min(chunk, kvRows-at), Pages: pages}}, in)...)
	}
	return out
}

// KVAttention returns attention over a cache of a class, of fixed inputs. Backends
// that compute alike give nearly the same.
func KVAttention(tb testing.TB, be compute.Backend, class compute.KVClass) []float32 {
	r := &rig{tb: tb, be: be, arena: be.NewArena()}
	out := newKVAttention(r, class).whole(newKVSequence(3), []int32{0, 1, 2, 3, 4}, kvRows)
	r.check(r.arena.Free())
	return out
}

// Away returns the root of the mean square of the differences over that of want.
func Away(got, want []float32) float64 {
	var differences, squares float64
	for i, w := range want {
		d := float64(got[i]) - float64(w)
		differences += d * d
		squares += float64(w) * float64(w)
	}
	return math.Sqrt(differences / squares)
}

// testKV: parts, pages, company, replay and clearing what was there do not change
// a bit of a class, it holds the bytes that it says, and it is as close to exact
// attention as its bits allow.
func testKV(t *testing.T, r *rig, class compute.KVClass) {
	if class != (compute.KVClass{}) && r.be.Info().Lacks&compute.FeaturePackedKV != 0 {
		spec := compute.CacheSpec{Layers: 1, Pages: kvPages, KVHeads: kvKVHeads, HeadDim: kvDim, Class: class}
		spec.Pools = compute.KVPools{Recent: kvPages, Upper: kvPages}
		if _, err := r.arena.NewCache(spec); !errors.Is(err, compute.ErrUnsupported) {
			t.Errorf("a device without such caches: %v", err)
		}
		return
	}
	in, other := newKVSequence(3), newKVSequence(2)
	pages, elsewhere := []int32{0, 1, 2, 8, 9}, []int32{7, 3, 5, 10, 4}
	a := newKVAttention(r, class)
	want := a.whole(in, pages, kvRows)
	for _, chunk := range []int{1, 63, 64, 100} {
		sameBits(t, fmt.Sprintf("in parts of %d", chunk), newKVAttention(r, class).whole(in, elsewhere, chunk), want)
	}
	a.whole(other, pages, 90)
	sameBits(t, "replayed over another's", a.whole(in, pages, 50), want)
	both := a.step([]compute.Span{{Count: kvRows, Pages: elsewhere}, {Count: kvRows, Pages: pages}}, other, in)
	sameBits(t, "beside another", both[len(both)/2:], want)

	exact := make([]float32, 0, len(want))
	s := &session{}
	for at := range kvRows {
		row := func(rows []float32, heads int) []float32 { return rows[at*heads*kvDim : (at+1)*heads*kvDim] }
		s.extend(&s.q, row(in.q, kvHeads), kvDim, a.rope)
		s.extend(&s.k, row(in.k, kvKVHeads), kvDim, a.rope)
		s.extend(&s.v, row(in.v, kvKVHeads), kvDim, nil)
		for _, v := range attended(s, at, geometry{kvHeads, kvKVHeads, kvDim}, compute.Attention{Heads: kvHeads, Scale: 0.125}) {
			exact = append(exact, float32(v))
		}
	}
	for _, c := range kvClasses() {
		if away := Away(want, exact); c.class == class && !(away <= c.most) {
			t.Errorf("%.4g away from exact attention, at most %g", away, c.most)
		}
	}
	a.window = 70
	windowed := a.whole(in, pages, kvRows)
	sameBits(t, "with a window, in parts", a.whole(in, pages, 64), windowed)
}
