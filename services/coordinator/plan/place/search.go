package place

import (
	"math"
	"slices"
)

const (
	// allOrders is how many seats are tried in all orders.
	allOrders = 6
	// searchWork bounds the local searches of one placement: nodes of graphs that
	// they may solve. Each pipeline's may take half of what is left.
	searchWork = 1600
	// slack is how much of the objective may be given up for a better second
	// one: of two pipelines as fast, the one with the smaller busiest stage.
	slack = 0.01
)

// best finds the pipeline that makes the objective best, its value, and a value
// that no pipeline can be below. The route is nil when there is none.
func (p *problem) best(work *int) (r route, value, bound float64) {
	n := len(p.seats)
	if n == 0 || p.fewest > p.most {
		return nil, inf, inf
	}
	if n <= allOrders {
		r, value = p.bestOf(p.allSubsets())
		bound = value
	} else {
		r, value, bound = p.searched(work)
	}
	if r == nil {
		return nil, inf, inf
	}
	if p.sum {
		r = p.levelled(r, value)
	}
	return r, value, bound
}

// allSubsets are the graphs of all orders of all seats.
func (p *problem) allSubsets() []*graph {
	var graphs []*graph
	for root := range p.seats {
		graphs = append(graphs, subsets(root, len(p.seats), p.most))
	}
	return graphs
}

// bestOf finds the best route through any of the graphs. For throughput it is
// that of the least sum among those that are as narrow, within the slack.
func (p *problem) bestOf(graphs []*graph) (r route, value float64) {
	value, limit := inf, inf
	if !p.sum {
		for _, g := range graphs {
			value = min(value, p.narrowest(g))
		}
		limit = value * (1 + slack)
	}
	sum := inf
	for _, g := range graphs {
		if x, v := p.least(g, limit); v < sum {
			r, sum = x, v
		}
	}
	if p.sum {
		value = sum
	}
	return r, value
}

// levelled gives up some of the least sum for a smaller busiest stage, in the
// order of r: of stages on like devices, like numbers of layers.
func (p *problem) levelled(r route, sum float64) route {
	if len(r) == 1 {
		return r
	}
	order := make([]int, len(r))
	for k, x := range r {
		order[k] = x.seat
	}
	g := ordered(order, len(r), len(r))
	low, high := p.narrowest(g), p.busiest(r)
	const rounds = 12
	for range rounds {
		limit := (low + high) / 2
		if x, v := p.least(g, limit*(1+1e-12)); x != nil && v <= sum*(1+slack) {
			r, high = x, limit
		} else {
			low = limit
		}
	}
	return r
}

// searched finds a good pipeline of many seats, with no more than half of the
// work that is left once it has one.
func (p *problem) searched(left *int) (r route, value, bound float64) {
	order, bound := p.relaxed()
	if order == nil {
		return nil, inf, inf
	}
	starts := [][]int{order, p.chain(order)}
	work := *left / 2
	*left -= work
	defer func() { *left += max(work, 0) }()
	value = inf
	try := func(order []int) bool {
		g := ordered(order, p.fewest, p.most)
		if work -= p.effort(g); len(g.nodes) == 0 {
			return false
		}
		x, v := p.bestOf([]*graph{g})
		if x == nil || v >= value {
			return false
		}
		r, value = x, v
		return true
	}
	for _, s := range starts {
		if try(s) && closeTo(value, bound) {
			return r, value, min(value, bound)
		}
	}
	if r == nil {
		r, value = p.anyOrder(&work)
		if r == nil {
			return nil, inf, inf
		}
	}
	p.improve(&r, &work, try)
	return r, value, min(value, bound)
}

// effort is how much work it takes to solve a graph.
func (p *problem) effort(g *graph) int {
	if p.sum {
		return len(g.nodes)
	}
	return 4 * len(g.nodes) // it is solved twice, once without a window
}

// improve moves seats of the order about while that helps and work is left.
func (p *problem) improve(r *route, work *int, try func([]int) bool) {
	for better := true; better && *work > 0; {
		better = false
		order := p.orderOf(*r)
		used := len(*r)
		for from := range order {
			for to := range min(used+1, len(order)) {
				if *work <= 0 {
					return
				}
				if from == to || from >= used && to >= used {
					continue
				}
				if try(moved(order, from, to)) || to < from && from < len(order) && try(swapped(order, from, to)) {
					better = true
					break
				}
			}
			if better {
				break
			}
		}
	}
}

// orderOf is the seats of a route, then the others.
func (p *problem) orderOf(r route) []int {
	var order []int
	for _, x := range r {
		order = append(order, x.seat)
	}
	for s := range p.seats {
		if !slices.Contains(order, s) {
			order = append(order, s)
		}
	}
	return order
}

// chain is an order in which each seat is followed by the nearest that is left.
func (p *problem) chain(order []int) []int {
	left := slices.Clone(order[1:])
	out := []int{order[0]}
	for len(left) > 0 {
		at, near := 0, inf
		for i, s := range left {
			if h := p.hop[out[len(out)-1]][s]; h < near {
				at, near = i, h
			}
		}
		out = append(out, left[at])
		left = slices.Delete(left, at, at+1)
	}
	return out
}

// anyOrder tries each seat as the first of the seats as they are listed.
func (p *problem) anyOrder(work *int) (r route, value float64) {
	value = inf
	all := p.orderOf(nil)
	for first := range p.seats {
		if *work <= 0 {
			break
		}
		g := ordered(moved(all, first, 0), p.fewest, p.most)
		*work -= p.effort(g)
		if x, v := p.bestOf([]*graph{g}); x != nil && v < value {
			r, value = x, v
		}
	}
	return r, value
}

func moved(order []int, from, to int) []int {
	out := slices.Delete(slices.Clone(order), from, from+1)
	return slices.Insert(out, to, order[from])
}

func swapped(order []int, a, b int) []int {
	out := slices.Clone(order)
	out[a], out[b] = out[b], out[a]
	return out
}

// closeTo allows for the rounding of sums.
func closeTo(value, bound float64) bool {
	return math.Abs(value-bound) <= 1e-9*math.Abs(bound)
}
