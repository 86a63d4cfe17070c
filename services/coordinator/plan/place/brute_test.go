package place

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// brute tries every order of every set of seats and every way to cut the layers,
// with sums written out again in the plainest way.
func brute(p *problem) (value float64) {
	value = inf
	n, layers := len(p.seats), p.last()
	used := make([]bool, n)
	var path route
	var walk func(done int)
	walk = func(done int) {
		if done == layers {
			if len(path) >= p.fewest && len(path) <= p.most {
				value = min(value, plainValue(p, path))
			}
			return
		}
		for s := range n {
			if used[s] {
				continue
			}
			used[s] = true
			for end := done + 1; end <= layers; end++ {
				if plainFits(p, s, done, end) {
					path = append(path, slice{s, done, end})
					walk(end)
					path = path[:len(path)-1]
				}
			}
			used[s] = false
		}
	}
	walk(0)
	return value
}

// plainFits asks the model and the pins, not the sums of a seat.
func plainFits(p *problem, seat, first, end int) bool {
	s := &p.seats[seat]
	for i := first; i < end; i++ {
		if s.barred[i+1] != s.barred[i] {
			return false
		}
	}
	return plainBytes(p, s, first, end) <= s.budget
}

func plainBytes(p *problem, s *seat, first, end int) uint64 {
	part := p.model.part(first, end)
	n := s.fixed + s.device.missing(p.model, part)
	if !s.device.Held.Stays {
		n = s.fixed + p.model.Bytes(part, 0, 0)
	}
	if part.Head {
		n += p.logit
	}
	return n + uint64(end-first)*uint64(p.pages)*p.model.KVPage
}

// plainValue is the objective of a route, from the costs of its devices.
func plainValue(p *problem, r route) float64 {
	sum, widest := 0.0, 0.0
	for k, x := range r {
		d := p.seats[x.seat].device
		part := p.model.part(x.first, x.end)
		t := d.time(p.model, part, p.work)
		widest = max(widest, t)
		if rate := d.load() * patience; true {
			missing := 0.0
			for i := x.first; i < x.end; i++ {
				if !d.Held.Layers[i] {
					missing += float64(p.model.Layers[i].Bytes)
				}
			}
			if part.Embed && !d.Held.Embed {
				missing += float64(p.model.Embed)
			}
			if part.Head && !d.Held.Head {
				missing += float64(p.model.Head)
			}
			t += missing / rate
		}
		if k > 0 {
			t += p.hop[r[k-1].seat][x.seat]
			widest = max(widest, p.busy[r[k-1].seat][x.seat])
		}
		sum += t
	}
	sum += p.back[r[len(r)-1].seat][r[0].seat]
	if p.sum {
		return sum
	}
	return widest
}

// drawCase makes a small model on a small, uneven cluster.
func drawCase(t *rapid.T, devices, layers int) (*Model, *Cluster, Wishes) {
	size := rapid.Uint64Range(1, 1000)
	m := &Model{
		Name: "m", Embed: size.Draw(t, "embed"), Head: size.Draw(t, "head"), HeadShape: "head",
		KVPage: rapid.Uint64Range(0, 10).Draw(t, "page"), Context: rapid.IntRange(1, 300).Draw(t, "context"),
		Buffers: rapid.Uint64Range(0, 5).Draw(t, "buffers"), Logits: rapid.Uint64Range(0, 5).Draw(t, "logits"),
		Wire: 64,
	}
	m.Tied = rapid.Uint64Range(0, min(m.Embed, m.Head)).Draw(t, "tied")
	for range rapid.IntRange(1, layers).Draw(t, "layers") {
		m.Layers = append(m.Layers, Layer{Bytes: size.Draw(t, "layer"), Shape: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "shape")})
	}
	ms := rapid.Float64Range(0.01, 2)
	c := &Cluster{Links: Links{
		Default: Link{Delay: ms.Draw(t, "delay"), Rate: 1000 * ms.Draw(t, "rate")}, Between: map[Direction]Link{},
	}}
	for i := range rapid.IntRange(1, devices).Draw(t, "devices") {
		d := Device{
			Node: fmt.Sprint("n", i/2), Index: i % 2, Memory: rapid.Uint64Range(500, 6000).Draw(t, "memory"),
			Pass: ms.Draw(t, "pass"), Turn: ms.Draw(t, "turn"), Load: 1, Speeds: map[string]Speed{},
		}
		for _, shape := range []string{"a", "b", "head"} {
			if rapid.IntRange(0, 5).Draw(t, "known") > 0 {
				d.Speeds[shape] = Speed{ms.Draw(t, "fixed"), ms.Draw(t, "row"), ms.Draw(t, "key") / 100}
			}
		}
		d.Held = Held{
			Layers: map[int]bool{}, Embed: rapid.Bool().Draw(t, "held embed"), Head: rapid.Bool().Draw(t, "held head"),
			Stays: rapid.Bool().Draw(t, "stays"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "held layers") {
			d.Held.Layers[rapid.IntRange(0, len(m.Layers)-1).Draw(t, "held")] = true
		}
		c.Devices = append(c.Devices, d)
	}
	for range rapid.IntRange(0, 4).Draw(t, "links") {
		node := rapid.IntRange(0, (len(c.Devices)-1)/2)
		dir := Direction{fmt.Sprint("n", node.Draw(t, "from")), fmt.Sprint("n", node.Draw(t, "to"))}
		c.Links.Between[dir] = Link{Delay: ms.Draw(t, "delay"), Rate: 1000 * ms.Draw(t, "rate")}
	}
	w := Wishes{
		Objective: rapid.SampledFrom([]Objective{Latency, Throughput}).Draw(t, "objective"),
		Stages:    max(0, rapid.IntRange(-3, 4).Draw(t, "stages")), MaxStages: max(0, rapid.IntRange(-6, 3).Draw(t, "most")),
		Sessions: rapid.IntRange(1, 4).Draw(t, "sessions"), Rows: 8, Streams: rapid.IntRange(1, 20).Draw(t, "streams"),
	}
	if rapid.IntRange(0, 3).Draw(t, "pinned") == 0 {
		first := rapid.IntRange(0, len(m.Layers)-1).Draw(t, "pin")
		w.Pins = []Pin{{first, first + 1, rapid.SampledFrom(c.Devices).Draw(t, "on").Node}}
	}
	return m, c, w
}

// all is the work of one placement.
func all() *int {
	n := searchWork
	return &n
}

func pointers(ds []Device) []*Device {
	var out []*Device
	for i := range ds {
		out = append(out, &ds[i])
	}
	return out
}

// checkRoute: a route covers the layers once, in order, within every limit.
func checkRoute(t *rapid.T, p *problem, r route) {
	next, seats := 0, map[int]bool{}
	for _, x := range r {
		if x.first != next || x.end <= x.first || seats[x.seat] || !plainFits(p, x.seat, x.first, x.end) {
			t.Fatalf("route %v", r)
		}
		next, seats[x.seat] = x.end, true
	}
	if next != p.last() || len(r) < p.fewest || len(r) > p.most {
		t.Fatalf("route %v of %d layers, %d to %d stages", r, p.last(), p.fewest, p.most)
	}
}

func same(a, b float64) bool {
	return math.IsInf(a, 1) && math.IsInf(b, 1) || math.Abs(a-b) <= 1e-9*max(1, math.Abs(b))
}

// TestBestEqualsBruteForce: the solver's pipeline is the best there is, for
// either objective, with links, pins, held layers and limits of all kinds.
func TestBestEqualsBruteForce(t *testing.T) {
	for range 10 { // 100 cases each
		rapid.Check(t, func(t *rapid.T) {
			m, c, w := drawCase(t, 4, 6)
			w = w.complete(m)
			p := newProblem(m, &w, pointers(c.Devices), &c.Links, m.PagesFor(w.Context)*w.Sessions)
			r, value, bound := p.best(all())
			if want := brute(p); !same(value, want) || !same(bound, value) {
				t.Fatalf("found %v worth %g (bound %g), the best is %g", r, value, bound, want)
			}
			if r == nil {
				return
			}
			checkRoute(t, p, r)
			if v := plainValue(p, r); v > value*(1+slack)+1e-9 {
				t.Fatalf("route %v is worth %g, said to be %g", r, v, value)
			}
		})
	}
}

// TestSearchIsSound: with more seats than all orders are tried for, what the
// search finds is a pipeline, worth what it says, and not below its bound nor
// below what brute force finds; the bound holds for the best.
func TestSearchIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, c, w := drawCase(t, 5, 5)
		w = w.complete(m)
		p := newProblem(m, &w, pointers(c.Devices), &c.Links, m.PagesFor(w.Context)*w.Sessions)
		if p.fewest > p.most {
			return
		}
		r, value, bound := p.searched(all())
		want := brute(p)
		if math.IsInf(value, 1) {
			return // a search may miss what is hard to find
		}
		checkRoute(t, p, r)
		if v := plainValue(p, r); v > value*(1+slack)+1e-9 || value < want-1e-9*want {
			t.Fatalf("route %v is worth %g, said to be %g, the best is %g", r, v, value, want)
		}
		if bound > want*(1+1e-9) {
			t.Fatalf("bound %g, the best is %g", bound, want)
		}
	})
}

// TestSearchIsExactWhereAlike: with links and layers that are all alike the
// relaxation is the problem itself, so the order that it gives is the best.
func TestSearchIsExactWhereAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, c, w := drawCase(t, 5, 6)
		c.Links.Between, w.Pins = nil, nil
		w.Stages, w.MaxStages = 0, 0
		for i := range m.Layers {
			m.Layers[i] = m.Layers[0]
		}
		for i := range c.Devices {
			c.Devices[i].Held, c.Devices[i].Node, c.Devices[i].Index = Held{}, fmt.Sprint("n", i), 0
		}
		w = w.complete(m)
		p := newProblem(m, &w, pointers(c.Devices), &c.Links, m.PagesFor(w.Context)*w.Sessions)
		_, value, bound := p.searched(all())
		if want := brute(p); !same(value, want) || !same(bound, want) {
			t.Fatalf("found %g, bound %g, the best is %g", value, bound, want)
		}
	})
}
