package place

import "math"

// roles of a seat in a pipeline.
const (
	between = iota // stages before and after it
	begins         // it holds the embedding
	ends           // it holds the head
	alone          // both
	roles
	states = roles // whether the embedding and the head have a seat
)

// window is the cheapest that n layers in a row can be on a seat, over all
// places where they may lie.
type window struct {
	time  []float64 // by n; with moving
	bytes []uint64
}

// relaxed solves a problem in which every seat takes some number of layers, as
// cheap as that many layers in a row can be, and every stage is entered over the
// cheapest link that leads to it. The value is a lower bound of the real one;
// where links and layers are alike it is the real one, and the order that is
// returned attains it. The order begins with the seat of the embedding and ends
// with that of the head; seats without layers lie between. It is nil when even
// the relaxed problem has no solution.
func (p *problem) relaxed() (order []int, bound float64) {
	layers, n := p.last(), len(p.seats)
	value := [states][]float64{}
	for f := range value {
		value[f] = repeat(inf, layers+1)
	}
	value[0][0] = 0
	picks := make([][states][]pick, n)
	enter := p.cheapestEntry()
	for s := range p.seats {
		w := p.windows(s)
		next := [states][]float64{}
		for f := range states {
			next[f] = append([]float64(nil), value[f]...)
			picks[s][f] = make([]pick, layers+1)
		}
		for role := range roles {
			most := p.mostLayers(s, role, w)
			for have := range states {
				if have&role != 0 {
					continue // that end has a seat already
				}
				to := have | role
				for take := 1; take <= most; take++ {
					if role == alone && take < layers {
						continue
					}
					cost := p.roleCost(s, role, take, w, enter[s])
					from, into, picked := value[have], next[to][take:], picks[s][to][take:]
					for j := range into {
						v := from[j] + cost
						if !p.sum {
							v = max(from[j], cost)
						}
						if v < into[j] {
							into[j], picked[j] = v, pick{take, role}
						}
					}
				}
			}
		}
		value = next
	}
	bound = value[states-1][layers]
	if math.IsInf(bound, 1) {
		return nil, inf
	}
	return orderOf(picks, states-1, layers), bound
}

// pick is what a seat takes where it helps most: layers, and the ends that it
// holds. No layers is no stage.
type pick struct{ layers, role int }

// orderOf reads the picks of seats back from the last.
func orderOf(picks [][states][]pick, have, j int) []int {
	first, final := -1, -1
	var middle, unused []int
	for s := len(picks) - 1; s >= 0; s-- {
		c := picks[s][have][j]
		switch {
		case c.layers == 0:
			unused = append(unused, s)
		case c.role&begins != 0:
			first = s
		case c.role == ends:
			final = s
		default:
			middle = append(middle, s)
		}
		have, j = have&^c.role, j-c.layers
	}
	order := append([]int{first}, reversed(middle)...)
	order = append(order, reversed(unused)...)
	if final >= 0 {
		order = append(order, final)
	}
	return order
}

// windows finds the cheapest windows of a seat.
func (p *problem) windows(s int) window {
	layers, seat := p.last(), &p.seats[s]
	w := window{time: repeat(inf, layers+1), bytes: make([]uint64, layers+1)}
	for n := 1; n <= layers; n++ {
		w.bytes[n] = math.MaxUint64
		for i := 0; i+n <= layers; i++ {
			t := seat.time[i+n] - seat.time[i]
			if p.sum {
				t += seat.move[i+n] - seat.move[i]
			}
			if seat.barred[i] != seat.barred[i+n] {
				continue
			}
			w.time[n] = min(w.time[n], t)
			w.bytes[n] = min(w.bytes[n], seat.bytes[i+n]-seat.bytes[i])
		}
	}
	return w
}

// mostLayers is how many layers fit a seat in a role.
func (p *problem) mostLayers(s, role int, w window) int {
	seat := &p.seats[s]
	fixed := seat.fixed
	if role&begins != 0 {
		fixed += seat.ends[0]
	}
	if role&ends != 0 {
		fixed += seat.ends[1] + p.logit
	}
	if role == alone {
		fixed -= seat.tied
	}
	most := 0
	for n := 1; n <= p.last(); n++ {
		if w.bytes[n] <= seat.budget && fixed <= seat.budget-w.bytes[n] {
			most = n
		}
	}
	return most
}

// roleCost is the least that take layers in a role can cost.
func (p *problem) roleCost(s, role, take int, w window, enter float64) float64 {
	seat := &p.seats[s]
	t := seat.pass + w.time[take]
	if role&ends != 0 {
		t += seat.head
	}
	if !p.sum {
		if role&begins == 0 {
			t = max(t, enter)
		}
		return t
	}
	if role&begins != 0 {
		t += seat.moveEnds[0] + seat.turn + p.cheapestReturn(s, role)
	} else {
		t += enter
	}
	if role&ends != 0 {
		t += seat.moveEnds[1]
	}
	return t
}

// cheapestReturn is the least time of ids to a first seat, without its turn.
func (p *problem) cheapestReturn(s, role int) float64 {
	if role == alone {
		return p.back[s][s] - p.seats[s].turn
	}
	t := inf
	for o := range p.seats {
		if o != s {
			t = min(t, p.back[o][s]-p.seats[s].turn)
		}
	}
	return t
}

// cheapestEntry is, for each seat, the least of what hops to it cost.
func (p *problem) cheapestEntry() []float64 {
	out := repeat(inf, len(p.seats))
	for a := range p.seats {
		for b := range p.seats {
			if a == b {
				continue
			}
			if p.sum {
				out[b] = min(out[b], p.hop[a][b])
			} else {
				out[b] = min(out[b], p.busy[a][b])
			}
		}
	}
	return out
}

func repeat(v float64, n int) []float64 {
	s := make([]float64, n)
	for i := range s {
		s[i] = v
	}
	return s
}

func reversed(s []int) []int {
	out := make([]int, 0, len(s))
	for i := len(s) - 1; i >= 0; i-- {
		out = append(out, s[i])
	}
	return out
}
