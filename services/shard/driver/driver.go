// Package driver holds the machine that forms and numbers the steps of a
// pipeline. It runs on the pipeline's first stage.
//
// The machine is pure: events go in by Step, what is to be done comes out. It
// has no clock, no goroutine and does no I/O, and equal events give equal
// frames.
//
// A session first computes its prompt in chunks, several of which may be in
// flight, and then decodes: one row a step, which asks for the next id. The
// sessions are dealt to lanes. A step carries the decode rows of one lane, and
// fills what is left of its rows with chunks of prompts in turn. A lane has at
// most one step with decode rows in flight, so with several lanes a pipeline's
// stages work at the same time on different sessions.
package driver

import (
	"errors"
	"fmt"

	"github.com/shoal-llm/shoal/pkg/frame"
)

var (
	// ErrRefused says that an event asks for what the machine cannot do. It
	// has changed nothing.
	ErrRefused = errors.New("refused")
	// ErrFault says that the pipeline broke its promises. The machine must not
	// be used any more.
	ErrFault = errors.New("pipeline fault")
)

// Config is the shape of a pipeline. All numbers are at least 1.
type Config struct {
	Epoch    uint64
	Pipeline uint32
	Slots    int // sessions at a time, at most frame.MaxSlots
	Pages    int // KV pages of every stage
	Context  int // positions of a session
	Rows     int // rows of a step, at most frame.MaxRows
	Chunk    int // rows of a session's prompt in one step
	Lanes    int
	InFlight int // steps that have been sent and have not come back
}

func (c Config) check() error {
	for _, f := range []struct {
		name  string
		value int
		most  int
	}{
		{"slots", c.Slots, frame.MaxSlots}, {"pages", c.Pages, 1 << 30}, {"context", c.Context, 1 << 30},
		{"rows", c.Rows, frame.MaxRows}, {"chunk", c.Chunk, frame.MaxRows},
		{"lanes", c.Lanes, 1 << 10}, {"steps in flight", c.InFlight, 1 << 10},
	} {
		if f.value < 1 || f.value > f.most {
			return fmt.Errorf("%w: %s of a pipeline: %d, want 1 to %d", ErrRefused, f.name, f.value, f.most)
		}
	}
	return nil
}

// Event is something that happened: a Submit, Commit, Halt, Returned or Tick.
type Event interface {
	apply(m *Machine, out *Output) error
}

// Submit gives a session to the machine. Its slot is free: a Closed of its last
// attempt was seen, or none was ever submitted.
type Submit struct {
	Open   *frame.Open // History is empty; it is not changed afterwards
	Tokens []int32     // the prompt, and the ids committed so far; at least one
	Ahead  int         // ids it may sample beyond those committed; at least one
}

// Commit says that the ids of the session's positions below Length are
// committed. It may come before the result that holds them.
type Commit struct {
	Slot    frame.Slot
	Attempt uint32
	Length  int
}

// Halt stops a session: no step after it contains the session.
type Halt struct {
	Slot    frame.Slot
	Attempt uint32
}

// Returned is the result of a step, from the last stage.
type Returned struct{ Result *frame.Result }

// Tick tells the time, in Unix milliseconds. Deadlines are looked at with it.
type Tick struct{ NowMS int64 }

// Output is what there is to do after an event, in no particular order between
// the lists.
type Output struct {
	Send      []*frame.Frame // steps for the first stage, in order, without rows
	Prefilled []Prefilled
	Closed    []Closed
}

// Prefilled says how far a prompt has been computed by all stages.
type Prefilled struct {
	Slot        frame.Slot
	Attempt     uint32
	Done, Total int // positions
}

// Closed says that a slot is free on every stage.
type Closed struct {
	Slot    frame.Slot
	Attempt uint32
	Reason  Reason
	Detail  string // in words, for ReasonFailed
}

// Reason says why a session ended.
type Reason string

// The reasons for which sessions end.
const (
	ReasonHalted   Reason = "halted"   // a Halt
	ReasonFinished Reason = "finished" // the last stage said so: a stop id, or enough ids
	ReasonContext  Reason = "context"  // no position is left
	ReasonDeadline Reason = "deadline"
	ReasonFailed   Reason = "failed" // a stage, or there are no pages for it
)

// Machine is the state of a driver. It is used by one goroutine.
type Machine struct {
	cfg      Config
	step     uint64     // the next one
	now      int64      // of the last Tick
	slots    []*session // by slot; nil is free
	sessions []*session // live ones, oldest first
	ending   []*session // to be closed with the next step
	lanes    []lane
	nextLane int // where the search for decode rows starts
	nextFill int // where the turn of prompts starts, in sessions
	free     int // pages
	flight   []flight
}

// lane is a group of sessions that decode together.
type lane struct {
	members int    // live sessions
	turn    int    // decode rows go round when there are too many
	busy    uint64 // the step with its decode rows that is in flight; 0 is none
}

// flight is a step that has been sent.
type flight struct {
	step   uint64
	lane   int        // whose decode rows it has; -1 is none
	asks   []*session // those that get an id
	chunks []chunk
	closes []*session
}

type chunk struct {
	session *session
	end     int // positions of the prompt once it is computed
}

// New returns the machine of a fresh pipeline. Its first step is 1.
func New(cfg Config) (*Machine, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Machine{
		cfg:   cfg,
		step:  1,
		slots: make([]*session, cfg.Slots),
		lanes: make([]lane, cfg.Lanes),
		free:  cfg.Pages,
	}, nil
}

// InFlight returns how many steps have been sent and have not come back.
func (m *Machine) InFlight() int { return len(m.flight) }

// Step takes an event and returns what is to be done. An error wraps
// ErrRefused: the event had no effect; or ErrFault: the pipeline is to be given
// up.
func (m *Machine) Step(ev Event) (Output, error) {
	var out Output
	if err := ev.apply(m, &out); err != nil {
		return Output{}, err
	}
	m.form(&out)
	return out, nil
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

func fault(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFault, fmt.Sprintf(format, args...))
}

// Sessions returns how many sessions have been in a step and how many wait for
// their first.
func (m *Machine) Sessions() (running, waiting int) {
	for _, s := range m.sessions {
		if s.opened {
			running++
		} else {
			waiting++
		}
	}
	return running, waiting
}

// Deadline returns the earliest deadline of a session, in Unix milliseconds, and
// whether there is one. A Tick is due then.
func (m *Machine) Deadline() (ms int64, ok bool) {
	for _, s := range m.sessions {
		if d := s.open.DeadlineMS; d != 0 && (!ok || d < ms) {
			ms, ok = d, true
		}
	}
	return ms, ok
}
