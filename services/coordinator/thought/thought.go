// Package thought tells what a model thinks before it answers from the answer: the text
// between <think> and </think> at the beginning, as models of the DeepSeek R1 and Qwen 3
// families write it. Some templates write the first mark themselves.
//
// The Splitter is pure: text in, pieces out, however the text is cut.
package thought

import "strings"

const (
	opening = "<think>"
	closing = "</think>"
	space   = " \t\r\n"
)

// Splitter reads one answer. It belongs to one goroutine.
type Splitter struct {
	held string
	mode mode
}

type mode uint8

const (
	atStart mode = iota // nothing has been said but space
	opened              // thinking, and nothing has been thought but space
	inside              // thinking
	behind              // after it, and nothing has been said but space
	answers
)

// New returns a splitter at the start of an answer. Opened says that the template has
// written the first mark.
func New(isOpen bool) *Splitter {
	if isOpen {
		return &Splitter{mode: opened}
	}
	return &Splitter{}
}

// Opens reports whether the end of a prompt is the first mark.
func Opens(prompt string) bool { return strings.HasSuffix(strings.TrimRight(prompt, space), opening) }

// Push adds text and returns what is decided by it: first what was thought, then what is
// answered. Space around what was thought is left out.
func (s *Splitter) Push(text string) (thinks, says string) {
	s.held += text
	if s.mode == atStart {
		rest := strings.TrimLeft(s.held, space)
		switch {
		case strings.HasPrefix(rest, opening):
			s.held, s.mode = rest[len(opening):], opened
		case strings.HasPrefix(opening, rest):
			return "", ""
		default:
			s.mode = answers
		}
	}
	if s.mode == opened {
		if s.held = strings.TrimLeft(s.held, space); s.held == "" {
			return "", ""
		}
		s.mode = inside
	}
	if s.mode == inside {
		before, after, found := strings.Cut(s.held, closing)
		if !found {
			return s.release(), ""
		}
		thinks, s.held, s.mode = strings.TrimRight(before, space), after, behind
	}
	if s.mode == behind {
		if s.held = strings.TrimLeft(s.held, space); s.held == "" {
			return thinks, ""
		}
		s.mode = answers
	}
	says, s.held = s.held, ""
	return thinks, says
}

// release gives out what was thought, up to what may be the mark, with space before it.
func (s *Splitter) release() (thinks string) {
	keep := len(s.held)
	for n := min(len(s.held), len(closing)-1); n > 0; n-- {
		if strings.HasSuffix(s.held, closing[:n]) {
			keep = len(s.held) - n
			break
		}
	}
	keep = len(strings.TrimRight(s.held[:keep], space))
	thinks, s.held = s.held[:keep], s.held[keep:]
	return thinks
}

// Flush ends the text and returns what of it is an answer. What was thought has left,
// but for space and half a mark.
func (s *Splitter) Flush() (says string) {
	if s.mode == atStart {
		says = s.held
	}
	s.held = ""
	return says
}
