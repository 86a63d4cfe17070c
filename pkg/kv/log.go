// Package kv holds the stage log: the pure machine that turns the frames of a
// pipeline into page tables.
//
// Every stage of a pipeline applies the same frames in the same order to a Log
// of the same Config, so all of them hand out the same pages without asking
// each other (architecture law 3). A Log has no clock, no goroutine and does no
// I/O; it does not know layers or devices.
//
// Keys and values live in pages of PageTokens positions. A page belongs to one
// slot while it is being filled. Whole pages can be published under their
// identity, a hash of all ids up to the page's end, and adopted by other slots;
// they are counted and never written again while anybody else holds them.
package kv

import (
	"errors"
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/frame"
)

// PageTokens is the number of positions in a page.
const PageTokens = compute.PageTokens

// Why Apply refuses a frame. A refused frame changes nothing.
var (
	// ErrRepeat: the step has been applied before. Drop the frame.
	ErrRepeat = errors.New("step repeated")
	// ErrGap: steps are missing. Ask for a replay from Next.
	ErrGap = errors.New("gap in steps")
	// ErrEpoch: the frame is of another plan. Its sender is fenced.
	ErrEpoch = errors.New("epoch fenced")
	// ErrInvalid: the frame breaks a rule of the log. Its sender has a bug.
	ErrInvalid = errors.New("invalid frame")
	// ErrNoPages: the frame needs more pages than are free.
	ErrNoPages = errors.New("no free KV pages")
)

// Config is what all stages of a pipeline agree on, from the plan. No number is
// negative.
type Config struct {
	Epoch    uint64
	Pipeline uint32
	Pages    int // pages of every stage
	Slots    int // sessions at a time
	Rows     int // rows of a step
	Context  int // positions of a session
	// KV is how keys and values are stored. Where they step down as they age a page
	// has finer forms while near rows may see it, in pools as large as KV.Pools
	// says; such pages are not shared.
	KV compute.KVClass
}

// Log is the state of one stage's sessions. It is used by one goroutine.
type Log struct {
	cfg    Config
	next   uint64
	slots  []slot
	pages  pages
	finer  []finer // none where values do not step down
	ids    []int32 // page p holds those of its positions at 64·p
	prefix index
	undo   []func() // of the frame being applied, newest last
	steps  [compute.MaxPasses + 1]Step
	turn   int // which of steps is next
}

// slot is a session's place. The ids of its positions are kept with its pages,
// because identities and later publications need them.
type slot struct {
	open    *frame.Open // nil when the slot is free
	adopted bool        // its history has been adopted
	length  int         // positions held
	table   []int32     // pages of what thinned blocks kept, and of the positions after them, none without a position
	names   [][32]byte  // identities of the first pages, as far as they were needed
	seen    uint64      // the last step with a span of this slot
	finer   [2]held     // finer forms of its pages
	thinned int         // blocks of which one of several positions was kept
}

// NewLog returns the empty log of a pipeline. Its first step is 1. It takes 4
// bytes for each position of its pages; what a decode step needs is there then.
func NewLog(cfg Config) *Log {
	return &Log{
		cfg:    cfg,
		next:   1,
		slots:  make([]slot, cfg.Slots),
		pages:  newPages(cfg.Pages),
		finer:  newFiner(cfg),
		ids:    make([]int32, cfg.Pages*PageTokens),
		prefix: index{},
	}
}

// Next returns the step the log expects.
func (l *Log) Next() uint64 { return l.next }

// Free returns how many pages nobody holds.
func (l *Log) Free() int { return l.pages.free }

// Pages returns how many pages there are.
func (l *Log) Pages() int { return l.cfg.Pages }

// Len returns the positions that an open slot holds, and whether it is open in
// this attempt.
func (l *Log) Len(s frame.Slot, attempt uint32) (int, bool) {
	if int(s) >= len(l.slots) {
		return 0, false
	}
	sl := &l.slots[s]
	if sl.open == nil || sl.open.Attempt != attempt {
		return 0, false
	}
	return sl.length, true
}

// Apply applies the next frame: its operations in order, then its spans. It
// reads neither Rows nor DType.
//
// A frame is applied whole or not at all; the error wraps one of the sentinels
// of this package and names the offending part. The step and its slices belong
// to the log and stay as they are for the next compute.MaxPasses applied
// frames. The openings of f are kept until their slots are closed.
func (l *Log) Apply(f *frame.Frame) (*Step, error) {
	if err := l.checkOrder(f); err != nil {
		return nil, err
	}
	step := &l.steps[l.turn]
	step.reset()
	if err := l.apply(f, step); err != nil {
		l.rollback()
		return nil, fmt.Errorf("step %d: %w", f.Step, err)
	}
	clear(l.undo)
	l.undo = l.undo[:0]
	l.next++
	l.turn = (l.turn + 1) % len(l.steps)
	return step, nil
}

func (l *Log) checkOrder(f *frame.Frame) error {
	switch {
	case f.Epoch != l.cfg.Epoch:
		return fmt.Errorf("%w: frame of epoch %d, plan of epoch %d", ErrEpoch, f.Epoch, l.cfg.Epoch)
	case f.Pipeline != l.cfg.Pipeline:
		return invalid("frame of pipeline %d on pipeline %d", f.Pipeline, l.cfg.Pipeline)
	case f.Step < l.next:
		return fmt.Errorf("%w: step %d, expected %d", ErrRepeat, f.Step, l.next)
	case f.Step > l.next:
		return fmt.Errorf("%w: step %d, expected %d", ErrGap, f.Step, l.next)
	}
	return nil
}

func (l *Log) apply(f *frame.Frame, step *Step) error {
	if len(f.Ops) > frame.MaxOps || len(f.Spans) > frame.MaxSpans {
		return invalid("%d operations, %d spans", len(f.Ops), len(f.Spans))
	}
	for i := range f.Ops {
		if err := l.applyOp(&f.Ops[i], step); err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
	}
	pages, err := l.checkSpans(f)
	if err != nil {
		return err
	}
	free, err := l.freeThinned(f)
	if err != nil {
		return err
	}
	if pages > free {
		return fmt.Errorf("%w: %d wanted, %d of %d free", ErrNoPages, pages, free, l.cfg.Pages)
	}
	if err := l.checkFiner(f); err != nil {
		return err
	}
	l.applySpans(f, step) // cannot fail: nothing to undo
	return nil
}

// checkSpans checks all spans against the state after the operations and
// returns how many pages they need.
func (l *Log) checkSpans(f *frame.Frame) (pages int, err error) {
	rows := 0
	for i := range f.Spans {
		sp := &f.Spans[i]
		if err := l.checkSpan(sp); err != nil {
			return 0, fmt.Errorf("span %d: %w", i, err)
		}
		s := &l.slots[sp.Slot]
		if s.seen == f.Step {
			return 0, invalid("span %d: a second span of slot %d", i, sp.Slot)
		}
		s.seen = f.Step
		if rows += len(sp.Tokens); rows > l.cfg.Rows {
			return 0, invalid("more than %d rows", l.cfg.Rows)
		}
		pages += pagesOf(s.length+len(sp.Tokens)) - pagesOf(s.length)
	}
	return pages, nil
}

func (l *Log) checkSpan(sp *frame.Span) error {
	s, err := l.opened(sp.Slot)
	if err != nil {
		return err
	}
	switch {
	case s.open.Attempt != sp.Attempt:
		return invalid("attempt %d of slot %d, which is in attempt %d", sp.Attempt, sp.Slot, s.open.Attempt)
	case len(sp.Tokens) == 0:
		return invalid("no rows for slot %d", sp.Slot)
	case len(s.open.History) > 0 && !s.adopted:
		return invalid("slot %d has not adopted its %d positions of history", sp.Slot, len(s.open.History))
	case int(sp.Start) != s.length:
		return invalid("position %d of slot %d, which holds %d", sp.Start, sp.Slot, s.length)
	case s.length+len(sp.Tokens) > l.cfg.Context:
		return invalid("position %d of slot %d, context of %d", s.length+len(sp.Tokens)-1, sp.Slot, l.cfg.Context)
	case l.cfg.KV.Cut(s.length, len(sp.Tokens)) < len(sp.Tokens):
		return invalid("positions %d to %d of slot %d in one span, on both sides of a multiple of %d", s.length, s.length+len(sp.Tokens)-1, sp.Slot, compute.KVBlock)
	}
	return nil
}

func (l *Log) applySpans(f *frame.Frame, step *Step) {
	row := 0
	for i := range f.Spans {
		sp := &f.Spans[i]
		s := &l.slots[sp.Slot]
		l.coarsen(s, s.length)
		thinned := l.thin(s, step)
		l.extend(s, sp.Tokens, step)
		step.addSpan(sp, row, s, thinned)
		row += len(sp.Tokens)
	}
	step.setPages(len(l.finer))
	for i := range f.Spans { // after all have taken pages: this step still reads what is given back
		sp := &f.Spans[i]
		s := &l.slots[sp.Slot]
		l.coarsen(s, s.length-min(int(sp.Drafted), len(sp.Tokens)))
	}
}

// extend appends positions to a slot, on pages of its own.
func (l *Log) extend(s *slot, ids []int32, step *Step) {
	for len(ids) > 0 {
		if s.length%PageTokens == 0 {
			page := l.pages.take()
			s.table = append(s.table, page)
			step.Clear = append(step.Clear, l.takeFiner(s, page))
		}
		n := copy(l.idsOf(s.table[len(s.table)-1])[s.length%PageTokens:], ids)
		s.length, ids = s.length+n, ids[n:]
	}
}

// idsOf returns the ids of a page's positions. Nothing but extend writes them,
// so a frame that is refused has not.
func (l *Log) idsOf(page int32) []int32 { return l.ids[int(page)*PageTokens:][:PageTokens] }

// opened returns an open slot.
func (l *Log) opened(n frame.Slot) (*slot, error) {
	if int(n) >= len(l.slots) {
		return nil, invalid("slot %d of %d", n, len(l.slots))
	}
	s := &l.slots[n]
	if s.open == nil {
		return nil, invalid("slot %d is not open", n)
	}
	return s, nil
}

// onUndo adds what takes back a change of the frame being applied.
func (l *Log) onUndo(f func()) { l.undo = append(l.undo, f) }

func (l *Log) rollback() {
	for i := len(l.undo) - 1; i >= 0; i-- {
		l.undo[i]()
	}
	clear(l.undo)
	l.undo = l.undo[:0]
	for i := range l.slots {
		if l.slots[i].seen == l.next {
			l.slots[i].seen = 0
		}
	}
}

// pagesOf returns the pages that n positions take.
func pagesOf(n int) int { return (n + PageTokens - 1) / PageTokens }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
