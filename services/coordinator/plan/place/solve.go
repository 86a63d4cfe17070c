package place

import (
	"math"
	"slices"
)

var inf = math.Inf(1)

// slice is layers [first, end) on a seat.
type slice struct{ seat, first, end int }

// route is a pipeline: slices in order.
type route []slice

// table is what dynamic programming finds for one node: the best way to have
// placed the first j layers, the last of them on the node's seat.
type table struct {
	best  []float64 // by j
	first []int     // where the node's slice begins, by j
	enter []float64 // the best way to begin a slice at i: best of a node before, and the hop
	from  []int     // that node, by i
}

// least finds the route through g with the least sum of stages, hops and
// moving, among those in which no stage and no link is busy for longer than
// limit. The sum is infinite when there is none.
func (p *problem) least(g *graph, limit float64) (route, float64) {
	tables := make([]table, len(g.nodes))
	last, end, sum := p.last(), -1, inf
	for k := range g.nodes {
		node := &g.nodes[k]
		t := p.newTable()
		p.enterSum(g, tables, k, t, limit)
		p.fillSum(&p.seats[node.seat], t, limit)
		tables[k] = t
		if !p.counts(node) {
			continue
		}
		if v := t.best[last] + p.back[node.seat][g.root]; v < sum {
			end, sum = k, v
		}
	}
	return p.trace(g, tables, end), sum
}

// narrowest finds the least time for which the busiest stage or link of a route
// through g must be busy.
func (p *problem) narrowest(g *graph) float64 {
	tables := make([]table, len(g.nodes))
	last, best := p.last(), inf
	for k := range g.nodes {
		node := &g.nodes[k]
		t := p.newTable()
		for _, b := range node.from {
			busy := p.busy[g.nodes[b].seat][node.seat]
			for i := 1; i < last; i++ {
				t.enter[i] = min(t.enter[i], max(tables[b].best[i], busy))
			}
		}
		if k == 0 {
			t.enter[0] = 0
		}
		s := &p.seats[node.seat]
		for j := 1; j <= last; j++ {
			for i := j - 1; i >= 0; i-- {
				time, fits := p.stage(s, i, j)
				if time >= t.best[j] {
					break // with more layers it takes longer
				}
				if fits {
					t.best[j] = min(t.best[j], max(t.enter[i], time))
				} else if i > 0 {
					i = 1 // more layers fit less, but all of them may share a tied table
				}
			}
		}
		tables[k] = t
		if p.counts(node) {
			best = min(best, t.best[last])
		}
	}
	return best
}

// counts reports whether a pipeline may end at a node, by its stages.
func (p *problem) counts(node *gnode) bool {
	return node.stages == 0 || node.stages >= p.fewest && node.stages <= p.most
}

func (p *problem) newTable() table {
	n := p.last() + 1
	floats := slices.Repeat([]float64{inf}, 2*n)
	ints := make([]int, 2*n)
	return table{best: floats[:n], enter: floats[n:], first: ints[:n], from: ints[n:]}
}

// enterSum finds the best way to come to node k with i layers placed.
func (p *problem) enterSum(g *graph, tables []table, k int, t table, limit float64) {
	if k == 0 {
		t.enter[0] = 0
		return
	}
	seat := g.nodes[k].seat
	for _, b := range g.nodes[k].from {
		before := g.nodes[b].seat
		if p.busy[before][seat] > limit {
			continue
		}
		hop, best := p.hop[before][seat], tables[b].best
		for i := 1; i < len(best)-1; i++ {
			if v := best[i] + hop; v < t.enter[i] {
				t.enter[i], t.from[i] = v, b
			}
		}
	}
}

// fillSum finds where the slice that ends at j begins best.
func (p *problem) fillSum(s *seat, t table, limit float64) {
	last := p.last()
	low := 1 // from here on slices that end at j fit and are short enough
	// The best beginning is the least of a window whose ends only move up: front
	// holds those that may yet be it, dearer ones behind cheaper ones.
	var front []int
	begin := func(i int) float64 { return t.enter[i] - s.time[i] - s.move[i] }
	for j := 1; j <= last; j++ {
		for low < j && !p.allowed(s, low, j, limit) {
			low++
		}
		if i := j - 1; i > 0 {
			for len(front) > 0 && begin(front[len(front)-1]) > begin(i) {
				front = front[:len(front)-1]
			}
			front = append(front, i)
		}
		for len(front) > 0 && front[0] < low {
			front = front[1:]
		}
		best, first := inf, 0
		if len(front) > 0 {
			first = front[0]
			best = begin(first)
		}
		best += s.pass + s.time[j] + s.move[j]
		if j == last {
			best += s.head + s.moveEnds[1]
		}
		if !math.IsInf(t.enter[0], 1) && p.allowed(s, 0, j, limit) {
			time, _ := p.stage(s, 0, j)
			if v := t.enter[0] + time + p.moving(s, 0, j); v < best {
				best, first = v, 0
			}
		}
		t.best[j], t.first[j] = best, first
	}
}

func (p *problem) allowed(s *seat, i, j int, limit float64) bool {
	time, fits := p.stage(s, i, j)
	return fits && time <= limit
}

// trace reads a route back from its last node.
func (p *problem) trace(g *graph, tables []table, k int) route {
	var r route
	for j := p.last(); k >= 0 && j > 0; {
		t := tables[k]
		i := t.first[j]
		r = append(r, slice{g.nodes[k].seat, i, j})
		k, j = t.from[i], i
	}
	slices.Reverse(r)
	return r
}

// sumOf is the sum of stages, hops and moving of a route: what least makes small.
func (p *problem) sumOf(r route) float64 {
	t := p.back[r[len(r)-1].seat][r[0].seat]
	for k, x := range r {
		s := &p.seats[x.seat]
		time, _ := p.stage(s, x.first, x.end)
		t += time + p.moving(s, x.first, x.end)
		if k > 0 {
			t += p.hop[r[k-1].seat][x.seat]
		}
	}
	return t
}

// busiest is the time for which the busiest stage or link of a route is busy:
// what narrowest makes small.
func (p *problem) busiest(r route) float64 {
	t := 0.0
	for k, x := range r {
		time, _ := p.stage(&p.seats[x.seat], x.first, x.end)
		t = max(t, time)
		if k > 0 {
			t = max(t, p.busy[r[k-1].seat][x.seat])
		}
	}
	return t
}
