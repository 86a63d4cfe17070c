package sample

import (
	"fmt"
	"math"
)

// Bounds of penalties and biases, as the OpenAI API has them.
const (
	maxPenalty           = 2
	maxRepetitionPenalty = 100
	maxBiasValue         = 100
)

// Validate reports the first field that is out of range as a *FieldError, or
// nil. It does not know the vocabulary: ids are checked for their sign alone.
func (s Spec) Validate() error {
	ranges := []struct {
		field    string
		value    float32
		min, max float32
	}{
		{"temperature", s.Temperature, 0, MaxTemperature},
		{"top_p", s.TopP, 0, 1},
		{"min_p", s.MinP, 0, 1},
		{"repetition_penalty", s.RepetitionPenalty, 0, maxRepetitionPenalty},
		{"presence_penalty", s.PresencePenalty, -maxPenalty, maxPenalty},
		{"frequency_penalty", s.FrequencyPenalty, -maxPenalty, maxPenalty},
	}
	for _, r := range ranges {
		if !(r.value >= r.min && r.value <= r.max) { // NaN fails too
			return &FieldError{r.field, fmt.Sprintf("must be a number from %g to %g", r.min, r.max)}
		}
	}
	counts := []struct {
		field    string
		value    int
		min, max int
	}{
		{"top_k", int(s.TopK), 0, math.MaxInt32},
		{"penalty_window", int(s.PenaltyWindow), 0, math.MaxInt32},
		{"max_tokens", int(s.MaxTokens), 0, math.MaxInt32},
		{"top_logprobs", int(s.TopLogProbs), 0, MaxTopLogProbs},
		{"stop", len(s.Stop), 0, MaxStopIDs},
		{"logit_bias", len(s.Bias), 0, MaxBias},
	}
	for _, c := range counts {
		if c.value < c.min {
			return &FieldError{c.field, fmt.Sprintf("must be at least %d", c.min)}
		}
		if c.value > c.max {
			return &FieldError{c.field, fmt.Sprintf("must be at most %d", c.max)}
		}
	}
	return s.validateLists()
}

// validateLists checks the entries of the lists and the fields that need
// another one.
func (s Spec) validateLists() error {
	if s.TopLogProbs > 0 && !s.LogProbs {
		return &FieldError{"top_logprobs", "needs logprobs to be true"}
	}
	for _, b := range s.Bias {
		if b.ID < 0 {
			return &FieldError{"logit_bias", "names a negative token id"}
		}
		if !(b.Value >= -maxBiasValue && b.Value <= maxBiasValue) {
			return &FieldError{"logit_bias", fmt.Sprintf("must have values from %d to %d", -maxBiasValue, maxBiasValue)}
		}
	}
	for _, id := range s.Stop {
		if id < 0 {
			return &FieldError{"stop", "names a negative token id"}
		}
	}
	return nil
}
