package sample

import (
	"errors"
	"fmt"
	"slices"
)

// ErrNotFinite says that the logits have a NaN, a positive infinity, or nothing
// above negative infinity, so that no id can be chosen from them.
var ErrNotFinite = errors.New("logits are not finite")

// Choice is one sampled token.
type Choice struct {
	ID int32

	// LogProb is the natural logarithm of the probability that the model itself
	// gives to ID: the log-softmax of the logits as they came, before bias,
	// penalties, temperature and truncation. It is set when Spec.LogProbs is.
	LogProb float32

	// Top holds the Spec.TopLogProbs likeliest ids of the same distribution,
	// the likeliest first. It is valid until the next Pick.
	Top []TopLogProb
}

// Sampler chooses the ids of one session. It owns its buffers, so that a Pick
// allocates nothing once they have grown. It must not be used by two goroutines
// at once.
type Sampler struct {
	spec   Spec
	vocab  int
	prompt int     // how many ids of the history are the prompt
	ids    []int32 // prompt, then answer

	window  counter // ids the repetition penalty looks at
	answer  counter // ids of the answer
	adjust  bool    // bias or a penalty changes logits
	logits  []float32
	weights []float64
	cands   []candidate
	heap    []float32
	top     []TopLogProb
	ranked  []candidate
}

// New returns a sampler for rows of vocab logits. The prompt takes part in the
// repetition penalty alone; ids of the answer are added by Accept. Ids outside
// the vocabulary are never penalised. The spec should be one that Validate
// accepts; the prompt is copied.
func New(spec Spec, vocab int, prompt []int32) *Sampler {
	s := &Sampler{spec: spec, vocab: vocab}
	s.adjust = spec.adjusts()
	if spec.RepetitionPenalty != 0 && spec.RepetitionPenalty != 1 {
		s.window = newCounter(vocab)
	}
	if spec.PresencePenalty != 0 || spec.FrequencyPenalty != 0 {
		s.answer = newCounter(vocab)
	}
	s.ids = make([]int32, 0, len(prompt))
	for _, id := range prompt {
		s.push(id)
	}
	s.prompt = len(prompt)
	return s
}

// Reserve makes room for n more ids, which Accept then takes without allocating.
func (s *Sampler) Reserve(n int) {
	s.ids = slices.Grow(s.ids, n)
	s.window.reserve(n)
	s.answer.reserve(n)
}

// Accept appends an id of the answer to the history.
func (s *Sampler) Accept(id int32) {
	s.push(id)
	s.answer.add(id)
}

// push appends an id and moves the window of the repetition penalty.
func (s *Sampler) push(id int32) {
	s.ids = append(s.ids, id)
	s.window.add(id)
	if w := int(s.spec.PenaltyWindow); w > 0 && len(s.ids) > w {
		s.window.remove(s.ids[len(s.ids)-1-w])
	}
}

// Len returns the length of the history: prompt and answer.
func (s *Sampler) Len() int { return len(s.ids) }

// Truncate forgets the ids of the answer from history length n on, as after
// drafts that were not accepted. The prompt stays.
func (s *Sampler) Truncate(n int) {
	n = max(n, s.prompt)
	for len(s.ids) > n {
		last := len(s.ids) - 1
		id := s.ids[last]
		s.window.remove(id)
		if w := int(s.spec.PenaltyWindow); w > 0 && last >= w {
			s.window.add(s.ids[last-w])
		}
		s.answer.remove(id)
		s.ids = s.ids[:last]
	}
}

// Pick chooses the id at a position of the sequence from a row of logits, which
// it does not change. It is a pure function of the logits, the history, the spec
// and the position. Negative infinity marks ids that cannot be chosen. Logits of
// no use give ErrNotFinite.
func (s *Sampler) Pick(logits []float32, position int) (Choice, error) {
	row, peak, err := s.prepare(logits)
	if err != nil {
		return Choice{}, err
	}
	var c Choice
	switch {
	case s.spec.Temperature == 0:
		c.ID = indexOf(row, peak)
	default:
		u := uniform(s.spec.Seed, uint64(position), s.spec.Choice)
		c.ID = s.draw(row, peak, u)
	}
	if s.spec.LogProbs {
		if err := s.addLogProbs(&c, logits); err != nil {
			return Choice{}, err
		}
	}
	return c, nil
}

// Probs writes the probabilities that Pick draws from into dst, which has the
// length of the logits. Ids that cannot be drawn get 0.
func (s *Sampler) Probs(dst []float64, logits []float32) error {
	row, peak, err := s.prepare(logits)
	if err != nil {
		return err
	}
	clear(dst)
	if s.spec.Temperature == 0 {
		dst[indexOf(row, peak)] = 1
		return nil
	}
	if !s.truncates() {
		total := s.weigh(row, peak)
		for id, w := range s.weights {
			dst[id] = w / total
		}
		return nil
	}
	s.truncate(row, peak)
	total := 0.0
	for _, c := range s.cands {
		total += c.weight
	}
	for _, c := range s.cands {
		dst[c.id] = c.weight / total
	}
	return nil
}

// prepare applies bias and penalties and finds the largest logit. Without any of
// them the row is the caller's own.
func (s *Sampler) prepare(logits []float32) (row []float32, peak float32, err error) {
	if len(logits) != s.vocab {
		return nil, 0, fmt.Errorf("row of %d logits for a vocabulary of %d", len(logits), s.vocab)
	}
	row = logits
	if s.adjust {
		s.logits = append(s.logits[:0], logits...)
		row = s.logits
		s.penalise(row)
	}
	peak, ok := peakOf(row)
	if !ok {
		return nil, 0, ErrNotFinite
	}
	return row, peak, nil
}

// penalise changes the logits in the order bias, repetition, presence and
// frequency.
func (s *Sampler) penalise(row []float32) {
	for _, b := range s.spec.Bias {
		if int(b.ID) < len(row) {
			row[b.ID] += b.Value
		}
	}
	for _, id := range s.window.ids {
		if row[id] > 0 {
			row[id] /= s.spec.RepetitionPenalty
		} else {
			row[id] *= s.spec.RepetitionPenalty
		}
	}
	for _, id := range s.answer.ids {
		count := float32(s.answer.count[id])
		row[id] -= float32(s.spec.FrequencyPenalty*count) + s.spec.PresencePenalty
	}
}

// draw returns the id at the fraction u of the total weight.
func (s *Sampler) draw(row []float32, peak float32, u float64) int32 {
	if !s.truncates() {
		return drawWeight(s.weights, float64(u*s.weigh(row, peak)))
	}
	s.truncate(row, peak)
	total := 0.0
	for _, c := range s.cands {
		total += c.weight
	}
	target, sum := float64(u*total), 0.0
	for _, c := range s.cands {
		sum += c.weight
		if sum > target {
			return c.id
		}
	}
	return s.cands[0].id
}

// drawWeight returns the first index at which the running sum of weights
// exceeds target. Rounding cannot let the target reach the total, since u < 1
// is at most 1 - 2^-53 and the sum is made in the same order.
func drawWeight(weights []float64, target float64) int32 {
	sum, last := 0.0, int32(0)
	for id, w := range weights {
		sum += w
		if sum > target {
			return int32(id)
		}
		if w > 0 {
			last = int32(id)
		}
	}
	return last
}
