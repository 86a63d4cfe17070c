// Package strictjson reads requests that strangers send as JSON.
//
// encoding/json forgives: it takes the last of two equal keys, matches names
// without regard to case, replaces broken UTF-8 and lone surrogates, and drops
// unknown members. A public door must refuse all of these by name. Parse builds
// a bounded tree by the letter of RFC 8259, with the stricter choices of RFC
// 7493 (I-JSON): unique keys, valid UTF-8, no lone surrogates. Object then reads
// typed members and reports the first fault and every member nobody asked for.
package strictjson

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Kind is the type of a JSON value.
type Kind uint8

// The kinds of a Value. Null is the zero value.
const (
	Null Kind = iota
	Bool
	Number
	String
	Array
	Object
)

// String names the kind as an error message does.
func (k Kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// Value is one JSON value. It is not changed after Parse made it.
type Value struct {
	kind    Kind
	truth   bool
	text    string // a string's text or a number's literal
	items   []Value
	members []member
}

type member struct {
	name  string
	value Value
}

// Kind returns the type of v.
func (v Value) Kind() Kind { return v.kind }

// Limits bound what Parse builds; every field must be positive.
type Limits struct {
	Depth  int // of nested arrays and objects
	Values int // in the whole document
}

// Error says what is wrong with a document or with one of its members.
type Error struct {
	Param   string // path of the member, like messages[0].content; empty for the document
	Why     string // completes a sentence that begins with the param
	Unknown bool   // the member is well-formed, but nobody reads it
}

// Error names the member and the reason.
func (e *Error) Error() string {
	if e.Param == "" {
		return "the request " + e.Why
	}
	return e.Param + " " + e.Why
}

// Parse reads exactly one JSON value from data. The error is an *Error.
func Parse(data []byte, limits Limits) (Value, error) {
	p := parser{data: data, limits: limits}
	v, err := p.document()
	if err != nil {
		return Value{}, err
	}
	return v, nil
}

// parser walks data once. path holds the place of the value being read.
type parser struct {
	data   []byte
	at     int
	limits Limits
	values int
	depth  int
	path   []byte
}

func (p *parser) document() (Value, error) {
	if !utf8.Valid(p.data) {
		return Value{}, p.fail("is not valid UTF-8")
	}
	if len(p.data) >= 3 && string(p.data[:3]) == "\ufeff" {
		return Value{}, p.fail("begins with a byte order mark, which JSON does not allow")
	}
	p.space()
	if p.at == len(p.data) {
		return Value{}, p.fail("is empty")
	}
	v, err := p.value()
	if err != nil {
		return Value{}, err
	}
	p.space()
	if p.at != len(p.data) {
		return Value{}, p.failAt("has more text after the JSON value")
	}
	return v, nil
}

func (p *parser) fail(why string) *Error { return &Error{Param: string(p.path), Why: why} }

func (p *parser) failAt(why string) *Error {
	return p.fail(fmt.Sprintf("%s (at byte %d)", why, p.at))
}

func (p *parser) space() {
	for p.at < len(p.data) {
		switch p.data[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *parser) peek() byte {
	if p.at < len(p.data) {
		return p.data[p.at]
	}
	return 0
}

func (p *parser) value() (Value, error) {
	if p.values++; p.values > p.limits.Values {
		return Value{}, p.fail(fmt.Sprintf("has more than %d values", p.limits.Values))
	}
	switch c := p.peek(); {
	case c == '{':
		return p.nested(p.object)
	case c == '[':
		return p.nested(p.array)
	case c == '"':
		text, err := p.str()
		return Value{kind: String, text: text}, err
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	case p.word("true"):
		return Value{kind: Bool, truth: true}, nil
	case p.word("false"):
		return Value{kind: Bool}, nil
	case p.word("null"):
		return Value{}, nil
	}
	return Value{}, p.failAt("is not valid JSON")
}

func (p *parser) word(w string) bool {
	if len(p.data)-p.at < len(w) || string(p.data[p.at:p.at+len(w)]) != w {
		return false
	}
	p.at += len(w)
	return true
}

func (p *parser) nested(read func() (Value, error)) (Value, error) {
	if p.depth++; p.depth > p.limits.Depth {
		if cut := bytes.IndexAny(p.path, ".["); cut >= 0 {
			p.path = p.path[:cut] // the member that holds it all says enough
		}
		return Value{}, p.fail(fmt.Sprintf("is nested more than %d levels deep", p.limits.Depth))
	}
	v, err := read()
	p.depth--
	return v, err
}

// next moves past a comma, or past the closing byte and says so.
func (p *parser) next(closing byte) (done bool, err error) {
	p.space()
	switch p.peek() {
	case ',':
		p.at++
		p.space()
		return false, nil
	case closing:
		p.at++
		return true, nil
	}
	return false, p.failAt("is not valid JSON")
}

func (p *parser) array() (Value, error) {
	v := Value{kind: Array}
	p.at++
	p.space()
	if p.peek() == ']' {
		p.at++
		return v, nil
	}
	here := len(p.path)
	for {
		p.path = append(p.path, '[')
		p.path = strconv.AppendInt(p.path, int64(len(v.items)), 10)
		p.path = append(p.path, ']')
		item, err := p.value()
		if err != nil {
			return Value{}, err
		}
		p.path = p.path[:here]
		v.items = append(v.items, item)
		if done, err := p.next(']'); done || err != nil {
			return v, err
		}
	}
}

func (p *parser) object() (Value, error) {
	v := Value{kind: Object}
	p.at++
	p.space()
	if p.peek() == '}' {
		p.at++
		return v, nil
	}
	here := len(p.path)
	seen := map[string]bool{}
	for {
		name, err := p.name(here, seen)
		if err != nil {
			return Value{}, err
		}
		item, err := p.value()
		if err != nil {
			return Value{}, err
		}
		p.path = p.path[:here]
		v.members = append(v.members, member{name, item})
		if done, err := p.next('}'); done || err != nil {
			return v, err
		}
	}
}

// name reads a member's name and its colon, and leaves the path at the member.
func (p *parser) name(here int, seen map[string]bool) (string, error) {
	if p.peek() != '"' {
		return "", p.failAt("is not valid JSON")
	}
	name, err := p.str()
	if err != nil {
		return "", err
	}
	p.path = append(p.path[:here], join(string(p.path[:here]), name)[here:]...)
	if seen[name] {
		return "", p.fail("is given twice")
	}
	seen[name] = true
	p.space()
	if p.peek() != ':' {
		return "", p.failAt("is not valid JSON")
	}
	p.at++
	p.space()
	return name, nil
}

// longestName is how much of a stranger's member name an error repeats.
const longestName = 64

// join appends a member's name to a path.
func join(path, name string) string {
	if len(name) > longestName {
		cut := longestName
		for !utf8.RuneStart(name[cut]) {
			cut--
		}
		name = name[:cut] + "…"
	}
	if name == "" {
		name = `""`
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// number checks the grammar and keeps the literal; its range is the reader's.
func (p *parser) number() (Value, error) {
	start := p.at
	if p.peek() == '-' {
		p.at++
	}
	whole := p.digits()
	if whole == 0 || whole > 1 && p.data[p.at-whole] == '0' {
		return Value{}, p.failAt("is not valid JSON")
	}
	if p.peek() == '.' {
		p.at++
		if p.digits() == 0 {
			return Value{}, p.failAt("is not valid JSON")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.at++
		if c := p.peek(); c == '+' || c == '-' {
			p.at++
		}
		if p.digits() == 0 {
			return Value{}, p.failAt("is not valid JSON")
		}
	}
	return Value{kind: Number, text: string(p.data[start:p.at])}, nil
}

func (p *parser) digits() int {
	start := p.at
	for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
		p.at++
	}
	return p.at - start
}
