package engine

import (
	"errors"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/grammar"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// session is what the last stage keeps of a generation to sample its ids.
type session struct {
	open    *frame.Open
	prompt  []int32 // ids before AnswerStart, until the sampler is made
	sampler *sample.Sampler
	vocab   int
	failed  string           // why nothing more is sampled
	matcher *grammar.Matcher // of a session with a grammar; else nil
	pool    *pool            // of a session that makes an embedding; else nil
}

func newSession(o *frame.Open, spec model.Spec) *session {
	s := &session{open: o, vocab: spec.Vocab, prompt: append([]int32(nil), o.History...)}
	if o.Pooling != frame.PoolingNone {
		s.pool = newPool(o.Pooling, spec.Hidden)
	}
	return s
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
	s.follow(id)
}

// ready makes the sampler once the prompt is complete.
func (s *session) ready() {
	if s.sampler == nil {
		s.sampler = sample.New(s.open.Sampling, s.vocab, s.prompt)
		s.sampler.Reserve(s.answer())
		s.prompt = nil
	}
}

// maxReserve bounds the ids of an answer for which there is room beforehand.
const maxReserve = 4096

// answer returns for how many ids of the answer room is made: all of them, or
// where that is much, or unknown, enough to grow seldom.
func (s *session) answer() int {
	if n := int(s.open.Sampling.MaxTokens); n > 0 {
		return min(n, maxReserve)
	}
	return maxReserve
}

// truncate forgets the ids from position n on.
func (s *session) truncate(n int) {
	if s.matcher != nil {
		s.matcher.Truncate(n - int(s.open.AnswerStart))
	}
	if s.sampler != nil {
		s.sampler.Truncate(n)
		return
	}
	if n < len(s.prompt) {
		s.prompt = s.prompt[:n]
	}
}

// pick samples the id at the next position from a row. The choice is valid until
// the next pick.
func (s *session) pick(row choices) (c sample.Choice, fin frame.Finish, err error) {
	s.ready()
	pos := s.length()
	if row.picked {
		c.ID, err = row.id()
		return c, s.finish(c.ID, pos), err
	}
	if err := s.mask(row.values, pos); err != nil {
		return c, 0, err
	}
	if c, err = s.sampler.Pick(row.values, pos); err != nil {
		return c, 0, err
	}
	return c, s.finish(c.ID, pos), nil
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
