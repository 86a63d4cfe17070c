package token

// StopMatcher looks for stop strings in a stream of text. Text that may be the
// beginning of one is held back until it is decided. The first stop string to be
// complete ends the text, and of those that end at one place the longest; how the
// text is cut into pieces makes no difference. It belongs to one goroutine.
type StopMatcher struct {
	stops   []stopString
	held    []byte
	stopped bool
}

// stopString is one pattern with the state of its automaton (Knuth, Morris,
// Pratt, Fast pattern matching in strings, 1977).
type stopString struct {
	text    string
	border  []int // longest proper border of each prefix
	matched int   // length of the prefix that the text ends with
}

// NewStopMatcher returns a matcher at the start of a text. Empty strings match
// nothing.
func NewStopMatcher(stops []string) *StopMatcher {
	m := &StopMatcher{}
	for _, text := range stops {
		if text != "" {
			m.stops = append(m.stops, stopString{text: text, border: borders(text)})
		}
	}
	return m
}

// borders returns for every length n the length of the longest proper prefix of
// text[:n] that is also its suffix.
func borders(text string) []int {
	b := make([]int, len(text)+1)
	for i, k := 1, 0; i < len(text); i++ {
		for k > 0 && text[i] != text[k] {
			k = b[k]
		}
		if text[i] == text[k] {
			k++
		}
		b[i+1] = k
	}
	return b
}

// next advances the automaton by one byte and reports a complete match.
func (s *stopString) next(c byte) bool {
	for s.matched > 0 && (s.matched == len(s.text) || s.text[s.matched] != c) {
		s.matched = s.border[s.matched]
	}
	if s.text[s.matched] == c {
		s.matched++
	}
	return s.matched == len(s.text)
}

// Push adds text and returns what can be released. Once stopped, everything from
// the stop string on is dropped and every later Push returns ("", true).
func (m *StopMatcher) Push(text string) (released string, stopped bool) {
	if m.stopped {
		return "", true
	}
	start := len(m.held)
	m.held = append(m.held, text...)
	for i := start; i < len(m.held); i++ {
		longest := 0
		for j := range m.stops {
			if s := &m.stops[j]; s.next(m.held[i]) {
				longest = max(longest, len(s.text))
			}
		}
		if longest > 0 {
			released = string(m.held[:i+1-longest])
			m.held, m.stopped = nil, true
			return released, true
		}
	}
	open := 0
	for _, s := range m.stops {
		open = max(open, s.matched)
	}
	released = string(m.held[:len(m.held)-open])
	m.held = append(m.held[:0], m.held[len(m.held)-open:]...)
	return released, false
}

// Flush ends the text and returns what was held back, which became no stop
// string.
func (m *StopMatcher) Flush() string {
	out := string(m.held)
	m.held = nil
	return out
}
