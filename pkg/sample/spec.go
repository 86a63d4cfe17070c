// Package sample turns logits into token ids.
//
// A choice is a pure function of (logits, history, Spec, position): its
// randomness is counter-based, so a replay of any position gives the same id
// on any machine.
package sample

import "fmt"

// Bias adds Value to the logit of token ID before everything else.
type Bias struct {
	ID    int32
	Value float32
}

// Spec holds every sampling parameter of one generation: the fields of the
// streaming guide and of the OpenAI API. The zero value is greedy decoding
// without penalties. A Spec is not changed after it was made.
type Spec struct {
	Temperature float32 // 0 is greedy
	TopK        int32   // 0 is off
	TopP        float32 // 0 or 1 is off
	MinP        float32 // 0 is off
	Seed        uint64
	Choice      uint32 // which of the n answers to one request: part of the random counter

	RepetitionPenalty float32 // divides positive and multiplies negative logits of seen ids; 0 or 1 is off
	PresencePenalty   float32 // subtracted once from the logit of an id seen in the answer
	FrequencyPenalty  float32 // subtracted once per occurrence in the answer
	PenaltyWindow     int32   // how many of the last ids the repetition penalty looks at; 0 is all

	Bias []Bias

	LogProbs    bool
	TopLogProbs int32 // 0 to 20 alternatives with each id; needs LogProbs

	Stop      []int32 // ids that end the generation
	IgnoreEOS bool    // do not end at Stop
	MaxTokens int32   // the most ids to sample; 0 is no limit of its own
}

// Plain reports whether the id is always that of the largest logit, and nothing
// else is asked of the logits.
func (s *Spec) Plain() bool { return s.Temperature == 0 && !s.LogProbs && !s.adjusts() }

// adjusts reports whether a bias or a penalty changes logits.
func (s *Spec) adjusts() bool {
	return len(s.Bias) > 0 || s.RepetitionPenalty != 0 && s.RepetitionPenalty != 1 || s.PresencePenalty != 0 || s.FrequencyPenalty != 0
}

// Limits of a Spec, checked by Validate.
const (
	MaxTemperature = 100
	MaxBias        = 1024
	MaxTopLogProbs = 20
	MaxStopIDs     = 64
)

// FieldError says which field of a Spec is out of range. Field is the name the
// OpenAI API gives it.
type FieldError struct {
	Field string
	Why   string
}

// Error names the field and the reason.
func (e *FieldError) Error() string { return fmt.Sprintf("%s %s", e.Field, e.Why) }

// TopLogProb is an alternative to a sampled id.
type TopLogProb struct {
	ID      int32
	LogProb float32
}
