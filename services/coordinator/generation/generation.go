// Package generation turns sampled ids into an answer: what is committed, what
// text leaves, and how it ends.
//
// Its Machine is pure: events in, actions out. It reads no clock, starts no
// goroutine and does no I/O; time comes in as Tick. The scripts in testdata are
// its specification.
package generation

import (
	"fmt"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/token"
)

// Ahead is how many ids a session may sample beyond those committed. With the
// client's credit it is the whole back-pressure: a reader who stops reading
// stops the computation this many ids later.
const Ahead = 32

// Detokenizer turns ids into text. What it cannot decide yet it holds until a
// later id or Flush. A *token.Detokenizer is one.
type Detokenizer interface {
	Push(id int32) string
	Flush() string
}

// Config fixes an answer.
type Config struct {
	Prompt      int       // positions of the prompt
	Committed   []int32   // ids of a resumed answer that are committed already
	MaxTokens   int       // ids of the whole answer, those of Committed too; at least 1
	Stops       []string  // text that ends the answer
	Deadline    time.Time // zero is none
	Detokenizer Detokenizer
}

// Event is something that happened.
type Event interface{ event() }

// The events.
type (
	// Sampled is what a step gave for the session. IDs stands at Position.
	Sampled frame.Sampled
	// Credit allows tokens up to Seq to leave.
	Credit struct{ Seq uint64 }
	// Lost says that what computed the answer is gone: ids that are not committed
	// are sampled again, after IDs. Those of a finished answer wait on.
	Lost struct{}
	// Stop ends the answer because somebody wants no more of it.
	Stop struct{ Reason string }
	// Fail ends the answer because it cannot go on.
	Fail struct {
		Code, Message, Param string
		Retryable            bool
		RetryAfter           time.Duration // when asking again may help; 0: soon
	}
	// Tick says what time it is.
	Tick struct{ Now time.Time }
)

func (Sampled) event() {}
func (Credit) event()  {}
func (Lost) event()    {}
func (Stop) event()    {}
func (Fail) event()    {}
func (Tick) event()    {}

// Action is something to do.
type Action interface{ action() }

// The actions. Exactly one of Complete, Stopped and Failed is ever asked for,
// and nothing after it.
type (
	// Token sends one committed id with the text it completes, which may be
	// empty. Seq grows by one from 1.
	Token struct {
		Seq     uint64
		ID      int32
		Text    string
		LogProb *frame.LogProb // nil when none was asked for
	}
	// Commit tells the driver that positions below Length are final.
	Commit struct{ Length int32 }
	// Halt tells the driver to end the session.
	Halt struct{}
	// Complete ends an answer that reached its end. Text was held back and is
	// part of no token.
	Complete struct {
		FinishReason string // stop or length
		Text         string
		StopString   string
	}
	// Stopped ends an answer that somebody ended.
	Stopped struct{ Reason string }
	// Failed ends an answer that could not go on.
	Failed Fail
)

func (Token) action()    {}
func (Commit) action()   {}
func (Halt) action()     {}
func (Complete) action() {}
func (Stopped) action()  {}
func (Failed) action()   {}

// The reasons and codes this package gives.
const (
	FinishStop    = "stop"
	FinishLength  = "length"
	ReasonTimeout = "deadline"
	CodeInternal  = "internal_error"
	CodeNumeric   = "numeric_error"
)

// sampled is an id that waits to be committed.
type sampled struct {
	id      int32
	logprob *frame.LogProb
	finish  frame.Finish
}

// Machine follows one answer. It belongs to one goroutine.
type Machine struct {
	cfg     Config
	matcher *token.StopMatcher
	held    string // text pushed to the matcher and not released
	pending []sampled
	ids     []int32 // committed
	seq     uint64  // of the last committed id
	credit  uint64
	done    bool
	actions []Action
}

// New returns a machine at the start of an answer, or where a resumed one left
// off.
func New(cfg Config) *Machine {
	return &Machine{cfg: cfg, matcher: token.NewStopMatcher(cfg.Stops), credit: uint64(len(cfg.Committed))}
}

// Start replays the ids of a resumed answer: their text has left already. It is
// called once, before Step. An answer that is at its end already ends here.
func (m *Machine) Start() []Action {
	m.actions = m.actions[:0]
	for _, id := range m.cfg.Committed {
		m.seq++
		m.ids = append(m.ids, id)
		if _, stop := m.push(m.cfg.Detokenizer.Push(id)); stop != "" {
			m.end(Complete{FinishReason: FinishStop, StopString: stop})
			return m.actions
		}
	}
	if int(m.seq) >= m.cfg.MaxTokens {
		m.complete(FinishLength)
	}
	return m.actions
}

// Committed is the number of ids of the answer that are final.
func (m *Machine) Committed() int { return int(m.seq) }

// IDs returns the ids of the answer that are final: what is submitted after the
// prompt when the answer goes on elsewhere. They are not changed, ever.
func (m *Machine) IDs() []int32 { return m.ids }

// Done reports whether the answer has ended.
func (m *Machine) Done() bool { return m.done }

// Finishing reports whether the end of the answer has been sampled and waits for
// the client's credit.
func (m *Machine) Finishing() bool {
	n := len(m.pending)
	return n > 0 && (m.pending[n-1].finish != frame.FinishNone || int(m.seq)+n >= m.cfg.MaxTokens)
}

// Step applies one event and returns what to do about it, in order. The slice is
// valid until the next call. After the terminal it returns nothing.
func (m *Machine) Step(e Event) []Action {
	m.actions = m.actions[:0]
	if m.done {
		return nil
	}
	switch e := e.(type) {
	case Sampled:
		m.sampled(e)
	case Credit:
		m.credit = max(m.credit, e.Seq)
		m.commit()
	case Lost:
		if !m.Finishing() { // else nothing more is to be sampled
			m.pending = m.pending[:0]
		}
	case Stop:
		m.end(Stopped{e.Reason})
	case Fail:
		m.end(Failed(e))
	case Tick:
		if !m.cfg.Deadline.IsZero() && !e.Now.Before(m.cfg.Deadline) {
			m.end(Stopped{ReasonTimeout})
		}
	default:
		panic(fmt.Sprintf("generation: unknown event %T", e))
	}
	return m.actions
}

// sampled takes the ids that stand exactly at the next position. Ids that came
// before are dropped; a hole is an error.
func (m *Machine) sampled(e Sampled) {
	next := m.cfg.Prompt + int(m.seq) + len(m.pending)
	first := next - int(e.Position)
	switch {
	case e.Err != "":
		m.end(failure(e.Err))
		return
	case first < 0:
		m.fail("the pipeline sent position %d where %d was due", e.Position, next)
		return
	case first >= len(e.IDs): // a repeat
		return
	case len(m.pending)+len(e.IDs)-first > Ahead:
		m.fail("the pipeline sampled more than %d ids ahead", Ahead)
		return
	}
	for i := first; i < len(e.IDs); i++ {
		s := sampled{id: e.IDs[i]}
		if i < len(e.LogProbs) {
			s.logprob = &e.LogProbs[i]
		}
		if i == len(e.IDs)-1 {
			s.finish = e.Finish
		}
		m.pending = append(m.pending, s)
	}
	m.commit()
}

// commit moves ids from pending to the answer as far as the credit goes.
func (m *Machine) commit() {
	before, taken := m.seq, 0
	for _, s := range m.pending {
		if s.finish == frame.FinishStop { // the id that ends an answer is no part of it
			m.complete(FinishStop)
			return
		}
		if m.seq >= m.credit {
			break
		}
		taken++
		m.seq++
		m.ids = append(m.ids, s.id)
		text, stop := m.push(m.cfg.Detokenizer.Push(s.id))
		m.actions = append(m.actions, Token{Seq: m.seq, ID: s.id, Text: text, LogProb: s.logprob})
		switch {
		case stop != "":
			m.end(Complete{FinishReason: FinishStop, StopString: stop})
			return
		case s.finish == frame.FinishLength || int(m.seq) >= m.cfg.MaxTokens:
			m.complete(FinishLength)
			return
		}
	}
	m.pending = append(m.pending[:0], m.pending[taken:]...)
	if m.seq > before {
		m.actions = append(m.actions, Commit{Length: int32(m.cfg.Prompt) + int32(m.seq)})
	}
}

// push adds text to the answer. It returns what can leave, and the stop string
// if the text now holds one.
func (m *Machine) push(text string) (released, stop string) {
	m.held += text
	released, stopped := m.matcher.Push(text)
	m.held = m.held[len(released):]
	if !stopped {
		return released, ""
	}
	// The held text begins with the stop string that was complete first.
	for _, s := range m.cfg.Stops {
		if s != "" && strings.HasPrefix(m.held, s) && (stop == "" || len(s) < len(stop)) {
			stop = s
		}
	}
	return released, stop
}

// complete ends the answer and releases the text that was held back.
func (m *Machine) complete(reason string) {
	text, stop := m.push(m.cfg.Detokenizer.Flush())
	if stop != "" {
		reason = FinishStop
	} else {
		text += m.matcher.Flush()
	}
	m.end(Complete{FinishReason: reason, Text: text, StopString: stop})
}

func (m *Machine) fail(format string, args ...any) {
	m.end(Failed{Code: CodeInternal, Message: fmt.Sprintf(format, args...), Retryable: true})
}

// failure says what a stage's error of one session means to its client. A stage
// begins the message with the code when it knows it.
func failure(text string) Failed {
	if strings.HasPrefix(text, CodeNumeric) {
		return Failed{Code: CodeNumeric, Message: text}
	}
	return Failed{Code: CodeInternal, Message: text, Retryable: true}
}

// end adds the one terminal. Whatever is in flight is discarded.
func (m *Machine) end(terminal Action) {
	m.done, m.pending = true, nil
	m.actions = append(m.actions, Halt{}, terminal)
}
