package sample

import (
	"cmp"
	"math"
	"slices"
)

// candidate is an id that is still in the race.
type candidate struct {
	id     int32
	logit  float32
	weight float64 // e^((logit - peak) / temperature)
}

// byRank orders by descending logit, then by id.
func byRank(a, b candidate) int {
	if a.logit != b.logit {
		return cmp.Compare(b.logit, a.logit)
	}
	return cmp.Compare(a.id, b.id)
}

// truncates reports whether top-k, top-p or min-p is on.
func (s *Sampler) truncates() bool { return s.hasTopK() || s.hasTopP() || s.spec.MinP > 0 }

func (s *Sampler) hasTopK() bool { return s.spec.TopK > 0 && int(s.spec.TopK) < s.vocab }

func (s *Sampler) hasTopP() bool { return s.spec.TopP > 0 && s.spec.TopP < 1 }

// weigh fills the weights of the whole row and returns their sum in id order.
func (s *Sampler) weigh(row []float32, peak float32) float64 {
	s.weights = slices.Grow(s.weights[:0], len(row))[:len(row)]
	return expRow(s.weights, row, peak, 1/float64(s.spec.Temperature))
}

// truncate leaves in cands the ids that top-k, top-p and min-p keep, ranked, as
// the processors of transformers do in this order: top-k keeps all ties of the
// k-th logit; top-p keeps ids while the probability before them is below p;
// min-p keeps ids with at least that part of the largest probability.
func (s *Sampler) truncate(row []float32, peak float32) {
	inverse := 1 / float64(s.spec.Temperature)
	switch {
	case s.hasTopK():
		s.collect(row, s.kthLogit(row, int(s.spec.TopK)))
		total := 0.0
		for i := range s.cands {
			c := &s.cands[i]
			c.weight = exp(float64((float64(c.logit) - float64(peak)) * inverse))
			total += c.weight
		}
		slices.SortFunc(s.cands, byRank)
		s.cutTopP(total)
	case s.hasTopP():
		s.rankHeaviest(row, s.weigh(row, peak))
	default:
		s.weigh(row, peak)
		s.collectWeights(row, float64(s.spec.MinP))
		slices.SortFunc(s.cands, byRank)
	}
	s.cutMinP()
}

// rankHeaviest ranks the heaviest ids, at least as many as top-p keeps of the
// total. It sums the weights by their binary exponent and sorts only those above
// the exponent that holds enough.
func (s *Sampler) rankHeaviest(row []float32, total float64) {
	var byExponent [1024]float64 // no weight exceeds 1
	for _, w := range s.weights {
		byExponent[math.Float64bits(w)>>52&1023] += w
	}
	// The margin is far above what the order of a sum can change.
	enough := float64((float64(s.spec.TopP) + 1e-9) * total)
	exponent, sum := 1023, 0.0
	for ; exponent > 0; exponent-- {
		if sum += byExponent[exponent]; sum >= enough {
			break
		}
	}
	s.collectWeights(row, math.Float64frombits(uint64(exponent)<<52))
	slices.SortFunc(s.cands, byRank)
	s.cutTopP(total)
}

// cutTopP drops ranked candidates once those before them hold p of the total.
func (s *Sampler) cutTopP(total float64) {
	if !s.hasTopP() {
		return
	}
	limit, sum := float64(float64(s.spec.TopP)*total), 0.0
	for i, c := range s.cands {
		if i > 0 && sum >= limit {
			s.cands = s.cands[:i]
			return
		}
		sum += c.weight
	}
}

// cutMinP drops ranked candidates below min-p times the weight of the best,
// which is 1.
func (s *Sampler) cutMinP() {
	for i, c := range s.cands {
		if i > 0 && c.weight < float64(s.spec.MinP) {
			s.cands = s.cands[:i]
			return
		}
	}
}

// collect gathers the ids with at least the given logit, in id order.
func (s *Sampler) collect(row []float32, least float32) {
	s.cands = s.cands[:0]
	for id, v := range row {
		if v >= least {
			s.cands = append(s.cands, candidate{id: int32(id), logit: v})
		}
	}
}

// collectWeights gathers the ids with at least the given weight, in id order.
func (s *Sampler) collectWeights(row []float32, least float64) {
	s.cands = s.cands[:0]
	for id, w := range s.weights {
		if w >= least {
			s.cands = append(s.cands, candidate{int32(id), row[id], w})
		}
	}
}

// kthLogit returns the k-th largest logit, for 0 < k < len(row). A heap of the k
// largest has the smallest of them at its root, so most logits cost one
// comparison.
func (s *Sampler) kthLogit(row []float32, k int) float32 {
	h := append(s.heap[:0], row[:k]...)
	s.heap = h
	for i := k/2 - 1; i >= 0; i-- {
		siftDown(h, i)
	}
	root := h[0]
	for _, v := range row[k:] {
		if v > root {
			h[0] = v
			siftDown(h, 0)
			root = h[0]
		}
	}
	return root
}

// siftDown restores the min-heap below index i.
func siftDown(h []float32, i int) {
	v := h[i]
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1] < h[child] {
			child++
		}
		if h[child] >= v {
			break
		}
		h[i] = h[child]
		i = child
	}
	h[i] = v
}
