// Package toolcall finds the calls of tools in the text of an answer.
//
// Two forms are known: a JSON object between <tool_call> and </tool_call>, as
// models of the Hermes and Qwen families write it, and a bare JSON object that
// is the answer. A call has a name and, under "arguments" or "parameters", an
// object. What only looks like a call, or names no tool, is text.
//
// The Parser is pure: text in, text and calls out, however the text is cut.
package toolcall

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

const (
	opening = "<tool_call>"
	closing = "</tool_call>"
)

// maxHeld bounds the text that is held back; what is longer is no call.
const maxHeld = 256 << 10

// Call is one call.
type Call struct {
	Name      string
	Arguments string // a JSON object, as the model wrote it
}

// Item is a piece of text, or a call.
type Item struct {
	Text string
	Call *Call
}

// Parser reads one answer. It belongs to one goroutine.
type Parser struct {
	tools  []string
	single bool
	held   string
	mode   mode
	calls  int
	scan   scanner
	seen   int // bytes of held that scan has read
	out    []Item
}

// mode is what the held text is the beginning of.
type mode uint8

const (
	atStart  mode = iota // nothing has been said but space, and calls
	inObject             // a bare object
	inText               // text, perhaps with the beginning of a tag at its end
	inTag                // what follows a tag
)

// New returns a parser at the start of an answer that may call tools. With
// single, calls after the first are dropped.
func New(tools []string, single bool) *Parser { return &Parser{tools: tools, single: single} }

// Calls returns how many calls were found.
func (p *Parser) Calls() int { return p.calls }

// Push adds text and returns what is decided by it.
func (p *Parser) Push(text string) []Item {
	p.out = nil
	p.held += text
	for p.step() {
	}
	if len(p.held) > maxHeld {
		p.release(len(p.held))
	}
	return p.out
}

// Flush ends the text and returns what is left of it.
func (p *Parser) Flush() []Item {
	p.out = nil
	if p.mode == inTag && p.call(p.held) { // the closing tag is missing
		p.held = ""
		return p.out
	}
	if p.mode == inTag {
		p.held = opening + p.held
	}
	if p.mode != atStart || p.calls == 0 {
		p.text(p.held)
	}
	p.held = ""
	return p.out
}

// step decides some of the held text. It reports whether there may be more.
func (p *Parser) step() bool {
	switch p.mode {
	case atStart:
		return p.start()
	case inObject:
		return p.object()
	case inText:
		return p.plain()
	}
	inside, rest, found := strings.Cut(p.held, closing)
	if !found {
		return false
	}
	if !p.call(inside) {
		p.text(opening + inside + closing)
	}
	p.held, p.mode = rest, atStart
	return true
}

// start looks at the first character that is no space.
func (p *Parser) start() bool {
	rest := strings.TrimLeft(p.held, " \t\r\n")
	switch {
	case rest == "":
		return false
	case strings.HasPrefix(rest, opening):
		p.held, p.mode = rest[len(opening):], inTag
	case strings.HasPrefix(opening, rest):
		return false
	case rest[0] == '{':
		p.held, p.mode, p.scan, p.seen = rest, inObject, scanner{}, 0
	default:
		if p.calls > 0 {
			p.held = rest
		}
		p.mode = inText
	}
	return true
}

// object waits for the end of a bare object.
func (p *Parser) object() bool {
	for ; p.seen < len(p.held); p.seen++ {
		if !p.scan.next(p.held[p.seen]) {
			continue
		}
		whole := p.held[:p.seen+1]
		if p.call(whole) {
			p.held, p.mode = p.held[len(whole):], atStart
			return true
		}
		p.release(len(whole))
		return true
	}
	return false
}

// plain releases text up to what may be a tag.
func (p *Parser) plain() bool {
	if i := strings.Index(p.held, opening); i >= 0 {
		p.text(p.held[:i])
		p.held, p.mode = p.held[i+len(opening):], inTag
		return true
	}
	keep := 0
	for n := min(len(p.held), len(opening)-1); n > 0; n-- {
		if strings.HasSuffix(p.held, opening[:n]) {
			keep = n
			break
		}
	}
	p.release(len(p.held) - keep)
	return false
}

// release makes the first n held bytes text.
func (p *Parser) release(n int) {
	if p.mode == inTag {
		p.text(opening)
	}
	p.text(p.held[:n])
	p.held, p.mode = p.held[n:], inText
}

func (p *Parser) text(s string) {
	if s != "" && !(p.single && p.calls > 0) {
		p.out = append(p.out, Item{Text: s})
	}
}

// call takes a text for a call, if it is one.
func (p *Parser) call(text string) bool {
	var c struct {
		Name       string          `json:"name"`
		Arguments  json.RawMessage `json:"arguments"`
		Parameters json.RawMessage `json:"parameters"`
	}
	if json.Unmarshal([]byte(text), &c) != nil || !slices.Contains(p.tools, c.Name) {
		return false
	}
	arguments := c.Arguments
	if len(arguments) == 0 {
		arguments = c.Parameters
	}
	var quoted string
	if json.Unmarshal(arguments, &quoted) == nil && quoted != "" {
		arguments = []byte(quoted)
	}
	arguments = bytes.TrimSpace(arguments)
	switch {
	case len(arguments) == 0 || string(arguments) == "null":
		arguments = []byte("{}")
	case arguments[0] != '{' || !json.Valid(arguments):
		return false
	}
	p.calls++
	if !p.single || p.calls == 1 {
		p.out = append(p.out, Item{Call: &Call{c.Name, string(arguments)}})
	}
	return true
}

// scanner finds the end of a JSON object.
type scanner struct {
	depth            int
	quoted, escaping bool
}

// next reports whether the object ends with a byte.
func (s *scanner) next(c byte) bool {
	switch {
	case s.escaping:
		s.escaping = false
	case s.quoted:
		s.escaping = c == '\\'
		s.quoted = c != '"'
	case c == '"':
		s.quoted = true
	case c == '{':
		s.depth++
	case c == '}':
		s.depth--
		return s.depth == 0
	}
	return false
}
