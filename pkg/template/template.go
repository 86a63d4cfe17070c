// Package template renders chat messages into the text of a prompt by the chat
// template of a model file.
//
// A template is a program from an untrusted file, in the language of Jinja. The
// engine that runs it (github.com/ardanlabs/jinja) has no limits of its own, so a
// template is rewritten before it is compiled: every operator, filter, method
// and output becomes a call of a guarded function, and every loop body and macro
// begins with a check. What a template can cost is therefore bounded: steps,
// time, depth, the length of strings and of the output.
//
// The text of users is marked, rune by rune, before it enters the engine, and the
// marks come out with it. So the result tells which text the template wrote and
// which text it was given, whatever it did with it: see [token.Segment].
package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ardanlabs/jinja"
	"github.com/shoal-llm/shoal/pkg/token"
)

var (
	// ErrTemplate says that a template is malformed, or does what this package
	// does not support.
	ErrTemplate = errors.New("invalid chat template")
	// ErrBudget says that a template, or what it was given, is over a limit.
	ErrBudget = errors.New("chat template over its budget")
)

// RaisedError is the message of a template that refused its input by
// raise_exception.
type RaisedError struct{ Message string }

// Error returns the template's message.
func (e *RaisedError) Error() string { return "chat template: " + e.Message }

// Limits of a template and of one rendering.
const (
	MaxSource = 1 << 20 // bytes of a template
	MaxOutput = 4 << 20 // bytes of a prompt
	MaxString = 1 << 20 // characters of a string inside a template
	MaxRange  = 100_000 // items of a list inside a template
	MaxSteps  = 5_000_000
	MaxTime   = 250 * time.Millisecond
)

// Message is one turn of a conversation. Empty fields other than Role and
// Content do not exist for the template.
type Message struct {
	Role       string
	Content    string
	Parts      []Part // instead of Content: a list of typed parts
	Name       string
	Reasoning  string // reasoning_content
	ToolCallID string
	ToolCalls  []ToolCall
}

// Part is an element of a message: text, or a placeholder of another type.
type Part struct {
	Type string // "text", "image"
	Text string
}

// ToolCall is a call that an assistant made.
type ToolCall struct {
	ID        string
	Name      string
	Arguments json.RawMessage // an object; anything else is given as text
}

// Input is what a template is rendered with.
type Input struct {
	Messages            []Message
	Tools               []json.RawMessage // definitions as the client sent them
	AddGenerationPrompt bool
	BOS, EOS            string    // texts of the tokens, as the vocabulary has them
	Now                 time.Time // what strftime_now shows
}

// Template is a compiled chat template. It is immutable and safe for concurrent
// use.
type Template struct {
	program *jinja.Template
}

// Compile checks and compiles a template. Errors wrap ErrTemplate or ErrBudget.
func Compile(source string) (t *Template, err error) {
	if len(source) > MaxSource {
		return nil, fmt.Errorf("%w: source of %d bytes, at most %d", ErrBudget, len(source), MaxSource)
	}
	text, err := rewrite(source)
	if err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			t, err = nil, fmt.Errorf("%w: engine: %v", ErrTemplate, r)
		}
	}()
	program, err := jinja.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTemplate, err)
	}
	return &Template{program}, nil
}

// Render returns the prompt in segments: text of the template as Special, text
// from messages and tools as plain. Roles of the known names count as the
// template's. Errors are a *RaisedError or wrap ErrTemplate or ErrBudget.
func (t *Template) Render(in Input) (segments []token.Segment, err error) {
	defer func() {
		if r := recover(); r != nil {
			segments, err = nil, fmt.Errorf("%w: engine: %v", ErrTemplate, r)
		}
	}()
	vars, err := variables(in)
	if err != nil {
		return nil, err
	}
	b := &budget{deadline: time.Now().Add(MaxTime)}
	b.install(vars, in.Now)
	out, err := t.program.RenderValues(vars)
	var raised *RaisedError
	switch {
	case errors.As(err, &raised), errors.Is(err, ErrBudget), errors.Is(err, ErrTemplate):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrTemplate, err)
	}
	return segmentsOf(out)
}

// segmentsOf cuts the output where marks begin and end.
func segmentsOf(out string) ([]token.Segment, error) {
	var segments []token.Segment
	size := 0
	for rest := out; rest != ""; {
		special := !isMarked(firstRune(rest))
		end := strings.IndexFunc(rest, func(r rune) bool { return isMarked(r) == special })
		if end < 0 {
			end = len(rest)
		}
		text := plain(rest[:end])
		if size += len(text); size > MaxOutput {
			return nil, fmt.Errorf("%w: output over %d bytes", ErrBudget, MaxOutput)
		}
		segments = append(segments, token.Segment{Text: text, Special: special})
		rest = rest[end:]
	}
	return segments, nil
}
