package engine

import (
	"errors"
	"fmt"

	"github.com/shoal-llm/shoal/pkg/grammar"
)

// maxAutomata is how many grammars a stage keeps ready, besides those in use.
const maxAutomata = 16

// automata are the grammars that a stage has prepared, for all sessions that
// name them.
type automata struct {
	vocab *grammar.Vocabulary // nil: answers cannot be constrained
	byKey map[string]*grammar.Automaton
	order []string // the oldest first
}

var errNoVocabulary = errors.New("the stage has no vocabulary to constrain answers with")

// of returns the automaton of a serialised grammar.
func (a *automata) of(bytes []byte) (*grammar.Automaton, error) {
	if a.vocab == nil {
		return nil, errNoVocabulary
	}
	if m := a.byKey[string(bytes)]; m != nil {
		return m, nil
	}
	g, err := grammar.Parse(bytes)
	if err != nil {
		return nil, err
	}
	if len(a.order) >= maxAutomata {
		delete(a.byKey, a.order[0])
		a.order = a.order[1:]
	}
	if a.byKey == nil {
		a.byKey = map[string]*grammar.Automaton{}
	}
	m := grammar.NewAutomaton(g, a.vocab)
	a.byKey[string(bytes)] = m
	a.order = append(a.order, string(bytes))
	return m, nil
}

// constrain gives a session the matcher of its grammar. What is wrong with the
// grammar fails the session alone.
func (s *session) constrain(a *automata) {
	if len(s.open.Grammar) == 0 {
		return
	}
	spec := &s.open.Sampling
	m, err := a.of(s.open.Grammar)
	switch {
	case err != nil:
		s.failed = fmt.Sprintf("constrain the answer: %v", err)
		return
	case len(spec.Stop) == 0 || spec.IgnoreEOS:
		s.failed = "constrain the answer: it has no id to end with"
		return
	}
	s.matcher = m.NewMatcher(spec.Stop)
	for _, id := range s.prompt[min(len(s.prompt), int(s.open.AnswerStart)):] {
		s.follow(id)
	}
}

// follow moves the matcher behind an id of the answer.
func (s *session) follow(id int32) {
	if s.matcher == nil || s.failed != "" {
		return
	}
	if err := s.matcher.Accept(id); err != nil {
		s.failed = err.Error()
	}
}

// mask forbids the ids that the grammar does not allow at a position.
func (s *session) mask(logits []float32, pos int) error {
	if s.matcher == nil {
		return nil
	}
	budget := grammar.Unbounded
	if n := int(s.open.Sampling.MaxTokens); n > 0 {
		budget = n - (pos - int(s.open.AnswerStart))
	}
	return s.matcher.Mask(logits, budget)
}
