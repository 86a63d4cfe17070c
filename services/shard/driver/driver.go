// Package driver holds the machine that forms and numbers the steps of a
// pipeline. It runs on the pipeline's first stage.
//
// The machine is pure: events go in by Step, what is to be done comes out. It
// has no clock, no goroutine and does no I/O, and equal events give equal
// frames.
//
// A session first computes its prompt in chunks, several of which may be in
// flight, and then decodes: one row a step, which asks for the next id, and
// guesses of the ids after it (draft.go, wish.go). A step carries the decode rows of one
// lane and fills what is left with chunks of prompts in turn. A lane is the share
// of the decoding sessions that one step carries: with L lanes, at most L steps
// with decode rows are in flight, so that the stages work at the same time on
// different sessions.
//
// How many lanes there are and how long chunks are is learnt from what steps took
// (pace.go, lanes.go); whole pages of prompts and answers are shared between
// sessions that begin alike (prefix.go). Nothing of this changes an id: a token
// is a function of its session alone.
package driver

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
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

// Config is the shape of a pipeline. All numbers are at least 1, except those of
// which 0 means none.
type Config struct {
	Epoch    uint64
	Pipeline uint32
	Stages   int
	Slots    int             // sessions at a time, at most frame.MaxSlots
	Pages    int             // KV pages of every stage
	Context  int             // positions of a session
	KV       compute.KVClass // how the stages store them
	Rows     int             // rows of a step, at most frame.MaxRows
	Chunk    int             // rows of a session's prompt in one step, at most
	Lanes    int             // at most
	InFlight int             // steps that have been sent and have not come back
	Drafts   int             // ids of a session that are guessed in one step, at most; 0 is none
	Drafter  bool            // a draft model answers Wishes
	Cached   int             // pages of prefixes that are kept for later sessions, at most; 0 is none
	// Target is how long a step with decode rows may take through all stages.
	// Rows, chunks and lanes are chosen for it by measurement; 0 measures
	// nothing, and all are as long and as many as they may be.
	Target time.Duration
	// Adapters are the IDs of the low-rank adapters that sessions may go through.
	Adapters []string
}

func (c Config) check() error {
	for _, f := range []struct {
		name  string
		value int
		least int
		most  int
	}{
		{"stages", c.Stages, 1, 1 << 10},
		{"slots", c.Slots, 1, frame.MaxSlots}, {"pages", c.Pages, 1, 1 << 30}, {"context", c.Context, 1, 1 << 30},
		{"rows", c.Rows, 1, frame.MaxRows}, {"chunk", c.Chunk, 1, frame.MaxRows},
		{"lanes", c.Lanes, 1, 1 << 10}, {"steps in flight", c.InFlight, 1, 1 << 10},
		{"drafts", c.Drafts, 0, math.MaxUint8}, {"cached pages", c.Cached, 0, 1 << 30},
		{"nanoseconds of a step", int(c.Target), 0, math.MaxInt},
	} {
		if f.value < f.least || f.value > f.most {
			return fmt.Errorf("%w: %s of a pipeline: %d, want %d to %d", ErrRefused, f.name, f.value, f.least, f.most)
		}
	}
	return nil
}

// Event is something that happened: a Submit, Commit, Halt, Returned, Guessed or Tick.
type Event interface {
	apply(m *Machine, out *Output) error
}

// Submit gives a session to the machine. Its slot is free: a Closed of its last
// attempt was seen, or none was ever submitted.
type Submit struct {
	Open   *frame.Open // History is empty; it is not changed afterwards
	Tokens []int32     // the prompt, and the ids committed so far; at least one
	Ahead  int         // ids it may sample beyond those committed; at least one
	Schedule
}

// Schedule is what a session wishes of its steps. The zero value leaves all to
// the machine. No wish changes an id.
type Schedule struct {
	Class    Class
	Chunk    int  // rows of its prompt in one step at most; 0 is the machine's choice
	Fixed    bool // its prompt is cut into equal chunks, of Chunk or FixedChunk rows, whatever was measured
	NoDrafts bool // no id of it is guessed
}

// FixedChunk is the length of chunks that are fixed and of no other length.
const FixedChunk = 512

// Class says whose time counts.
type Class uint8

// The classes.
const (
	ClassNormal     Class = iota
	ClassLatency          // its decode rows go in every step, and what else is in a step is kept short
	ClassThroughput       // longer steps do not hurt it
)

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

// Tick is nothing but the time that goes by. Deadlines are looked at with it.
type Tick struct{}

// Output is what there is to do after an event, in no particular order between
// the lists.
type Output struct {
	Send      []*frame.Frame // steps for the first stage, in order, without rows
	Prefilled []Prefilled
	Closed    []Closed
	Wishes    []Wish // for the draft model; each is answered by a Guessed
}

// Prefilled says how far a prompt has been computed by all stages.
type Prefilled struct {
	Slot        frame.Slot
	Attempt     uint32
	Done, Total int // positions
	Cached      int // of Done, those of a shared prefix, which were not computed
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
	step     uint64 // the next one
	now      time.Time
	slots    []*session // by slot; nil is free
	sessions []*session // live ones, oldest first
	ending   []*session // to be closed with the next step
	free     int        // pages
	restart  *session   // the one that begins anew with the next step
	prefixes prefixes
	flight   []flight
	decodes  int        // steps with decode rows in flight
	served   [2]float64 // of each kind of turns, that of the session that was served last
	pace     pace
	lanes    lanes
	drafting drafting
	stats    Stats
}

// flight is a step that has been sent.
type flight struct {
	step       uint64
	sent       time.Time
	alone      bool // nothing else was in flight
	rows       int
	decodes    int     // sessions whose decode rows it has
	decodeRows int     // with guesses
	pairs      float64 // keys that its rows of prompts see, together
	asks       []ask   // those that get ids
	chunks     []chunk
	closes     []*session
}

// ask is a session that gets an id from a step, and one more for each draft that
// holds.
type ask struct {
	session *session
	drafts  []int32
	model   bool // the draft model guessed them
}

type chunk struct {
	session *session
	end     int // positions of the prompt once it is computed
}

// Stats are what a machine has done and what it has learnt.
type Stats struct {
	Drafted, Accepted int // ids that were guessed, and that held
	Cached            int // positions that were not computed, thanks to shared prefixes
	Evicted           int // pages of prefixes that made room for others
	Prefixes          int // pages of prefixes that are kept
	Restarted         int // sessions whose pages went to others, which began anew
	Lanes             int // in force
}

// New returns the machine of a fresh pipeline. Its first step is 1.
func New(cfg Config) (*Machine, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Machine{
		cfg:      cfg,
		step:     1,
		slots:    make([]*session, cfg.Slots),
		free:     cfg.Pages,
		prefixes: newPrefixes(),
		pace:     newPace(cfg.Stages),
		lanes:    newLanes(cfg),
		drafting: drafting{on: cfg.Drafter && cfg.Drafts > 0},
	}, nil
}

// Stats returns what the machine has done.
func (m *Machine) Stats() Stats {
	s := m.stats
	s.Lanes, s.Prefixes = m.lanes.now, len(m.prefixes.byName)
	return s
}

// adapts reports whether the machine learns from what steps take.
func (m *Machine) adapts() bool { return m.cfg.Target > 0 }

// InFlight returns how many steps have been sent and have not come back.
func (m *Machine) InFlight() int { return len(m.flight) }

// Step takes an event, with the time at which it happened, and returns what is to
// be done. The time never goes back. An error wraps ErrRefused: the event had no
// effect; or ErrFault: the pipeline is to be given up.
func (m *Machine) Step(now time.Time, ev Event) (Output, error) {
	var out Output
	if now.After(m.now) {
		m.now = now
	}
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
