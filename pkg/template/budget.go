package template

import (
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/ardanlabs/jinja"
)

const (
	maxCalls  = 64       // depth of macros
	maxNested = 64       // depth of lists and dictionaries
	maxWork   = 64 << 20 // bytes of all strings that a rendering makes
	maxCells  = 1 << 20  // items of all lists that it makes
	maxKey    = 1 << 10  // bytes of a key that is looked up
)

// budget counts what one rendering costs. It belongs to that rendering.
type budget struct {
	steps    int
	work     int
	cells    int
	depth    int
	deadline time.Time
}

// spend counts steps and looks at the clock now and then.
func (b *budget) spend(n int) error {
	before := b.steps >> 10
	b.steps += n
	if b.steps > MaxSteps {
		return fmt.Errorf("%w: more than %d steps", ErrBudget, MaxSteps)
	}
	if b.steps>>10 != before && time.Now().After(b.deadline) {
		return fmt.Errorf("%w: longer than %v", ErrBudget, MaxTime)
	}
	return nil
}

// alloc counts a string before it is made: its length in bytes. A marked
// character takes four.
func (b *budget) alloc(n int) error {
	if n > utf8.UTFMax*MaxString || n < 0 {
		return fmt.Errorf("%w: string over %d characters", ErrBudget, MaxString)
	}
	if b.work += n; b.work > maxWork {
		return fmt.Errorf("%w: strings of more than %d bytes in all", ErrBudget, maxWork)
	}
	return b.spend(1 + n>>6)
}

// items counts a list before it is made.
func (b *budget) items(n int) error {
	if n > MaxRange || n < 0 {
		return fmt.Errorf("%w: list of more than %d items", ErrBudget, MaxRange)
	}
	if b.cells += n; b.cells > maxCells {
		return fmt.Errorf("%w: lists of more than %d items in all", ErrBudget, maxCells)
	}
	return b.spend(1 + n>>3)
}

// read counts looking through a string.
func (b *budget) read(s string) error { return b.spend(1 + len(s)>>6) }

// text counts a string and returns it as a value.
func (b *budget) text(s string) (jinja.Value, error) {
	if err := b.alloc(len(s)); err != nil {
		return jinja.Undefined(), err
	}
	return jinja.NewString(s), nil
}

// list counts a list and returns it as a value.
func (b *budget) list(items []jinja.Value) (jinja.Value, error) {
	if err := b.items(len(items)); err != nil {
		return jinja.Undefined(), err
	}
	return jinja.NewList(items), nil
}

// enter begins the body of a macro.
func (b *budget) enter() error {
	if b.depth++; b.depth > maxCalls {
		return fmt.Errorf("%w: macros call each other more than %d deep", ErrBudget, maxCalls)
	}
	return b.spend(1)
}

// fail returns an error of a template at run time.
func fail(format string, args ...any) (jinja.Value, error) {
	return jinja.Undefined(), fmt.Errorf("%w: %s", ErrTemplate, fmt.Sprintf(format, args...))
}
