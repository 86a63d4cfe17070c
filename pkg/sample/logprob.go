package sample

import "slices"

// addLogProbs sets the log-probabilities of a choice from the logits as the
// model gave them.
func (s *Sampler) addLogProbs(c *Choice, logits []float32) error {
	peak, ok := peakOf(logits)
	if !ok {
		return ErrNotFinite
	}
	s.weights = slices.Grow(s.weights[:0], len(logits))[:len(logits)]
	total := expRow(s.weights, logits, peak, 1)
	norm := float64(peak) + logarithm(total)
	c.LogProb = float32(float64(logits[c.ID]) - norm)

	n := min(int(s.spec.TopLogProbs), len(logits))
	if n == 0 {
		return nil
	}
	s.rank(logits, n)
	s.top = s.top[:0]
	for _, r := range s.ranked {
		s.top = append(s.top, TopLogProb{r.id, float32(float64(r.logit) - norm)})
	}
	c.Top = s.top
	return nil
}

// rank leaves in ranked the n largest logits, by descending logit, then id.
// n is small, so the list is kept sorted by insertion.
func (s *Sampler) rank(logits []float32, n int) {
	s.ranked = s.ranked[:0]
	for id, v := range logits {
		if len(s.ranked) == n {
			if v <= s.ranked[n-1].logit {
				continue // a later id loses ties
			}
			s.ranked = s.ranked[:n-1]
		}
		at := len(s.ranked)
		for at > 0 && s.ranked[at-1].logit < v {
			at--
		}
		s.ranked = slices.Insert(s.ranked, at, candidate{id: int32(id), logit: v})
	}
}
