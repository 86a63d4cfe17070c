package engine

import (
	"errors"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// session is what the last stage keeps of a generation to sample its ids.
type session struct {
	open    *frame.Open
	prompt  []int32 // ids before AnswerStart, until the sampler is made
	sampler *sample.Sampler
	vocab   int
	failed  string // why nothing more is sampled
}

func newSession(o *frame.Open, vocab int) *session {
	return &session{open: o, vocab: vocab, prompt: append([]int32(nil), o.History...)}
}

// length returns the number of positions whose ids are known.
func (s *session) length() int {
	if s.sampler != nil {
		return s.sampler.Len()
	}
	return len(s.prompt)
}

// accept appends the id at the next position.
func (s *session) accept(id int32) {
	if s.length() < int(s.open.AnswerStart) {
		s.prompt = append(s.prompt, id)
		return
	}
	s.ready()
	s.sampler.Accept(id)
}

// ready makes the sampler once the prompt is complete.
func (s *session) ready() {
	if s.sampler == nil {
		s.sampler = sample.New(s.open.Sampling, s.vocab, s.prompt)
		s.prompt = nil
	}
}

// truncate forgets the ids from position n on.
func (s *session) truncate(n int) {
	if s.sampler != nil {
		s.sampler.Truncate(n)
		return
	}
	if n < len(s.prompt) {
		s.prompt = s.prompt[:n]
	}
}

// pick samples the id at the next position.
func (s *session) pick(logits []float32) (id int32, lp *frame.LogProb, fin frame.Finish, err error) {
	s.ready()
	pos := s.length()
	c, err := s.sampler.Pick(logits, pos)
	if err != nil {
		return 0, nil, 0, err
	}
	spec := &s.open.Sampling
	if spec.LogProbs {
		lp = &frame.LogProb{LogProb: c.LogProb, Top: append([]sample.TopLogProb(nil), c.Top...)}
	}
	return c.ID, lp, s.finish(c.ID, pos), nil
}

// finish says whether an id at a position ends the session.
func (s *session) finish(id int32, pos int) frame.Finish {
	spec := &s.open.Sampling
	if !spec.IgnoreEOS {
		for _, stop := range spec.Stop {
			if id == stop {
				return frame.FinishStop
			}
		}
	}
	if spec.MaxTokens > 0 && pos+1-int(s.open.AnswerStart) >= int(spec.MaxTokens) {
		return frame.FinishLength
	}
	return frame.FinishNone
}

// errNumeric is what a client is told when a row of its session is not finite.
var errNumeric = errors.New("numeric_error: the model's activations are not finite")
