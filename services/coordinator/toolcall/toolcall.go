// Package toolcall finds the calls of tools in the text of an answer.
//
// These forms are known: a JSON object between <tool_call> and </tool_call>, as
// models of the Hermes and Qwen families write it; a bare JSON object that is the
// answer, or several with semicolons between them, as Llama 3 has it; the arguments
// between <function=NAME> and </function>, its other form; and an array of objects, or a
// name with its arguments, as Mistral has it. The control tokens that some models put
// before calls are no text, and are passed over where a vocabulary shows them. A call
// has a name and, under "arguments" or "parameters", an object. What only looks like a
// call, or names no tool, is text.
//
// The Parser is pure: text in, text and calls out, however the text is cut.
package toolcall

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// tag is a pair of marks around a call.
type tag struct{ opening, closing string }

var (
	hermes   = tag{"<tool_call>", "</tool_call>"}
	function = tag{"<function=", "</function>"}
)

// Marks before calls, and between a name and its arguments.
const (
	mistralCalls = "[TOOL_CALLS]"
	mistralArgs  = "[ARGS]"
	pythonTag    = "<|python_tag|>"
)

// begins are all marks that may stand where an answer begins.
var begins = []string{hermes.opening, function.opening, mistralCalls, pythonTag}

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
	lead   string // marks before held, which are text where no call follows
	held   string
	mode   mode
	tag    tag    // of inTag
	name   string // of inObject: whose arguments it is; empty where the object says so
	calls  int
	scan   scanner
	seen   int // bytes of held that scan has read
	out    []Item
}

// mode is what the held text is the beginning of.
type mode uint8

const (
	atStart  mode = iota // nothing has been said but space, and calls
	inObject             // a bare object, or an array of them
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
	if p.mode == inTag && p.inside(p.held) { // the closing tag is missing
		p.held, p.lead = "", ""
		return p.out
	}
	if p.mode != atStart || p.calls == 0 {
		p.text(p.lead + p.held)
	}
	p.held, p.lead = "", ""
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
	inside, rest, found := strings.Cut(p.held, p.tag.closing)
	if !found {
		return false
	}
	if !p.inside(inside) {
		p.text(p.lead + inside + p.tag.closing)
	}
	p.lead, p.held, p.mode = "", rest, atStart
	return true
}

// start looks at the first character that is no space.
func (p *Parser) start() bool {
	rest := strings.TrimLeft(p.held, " \t\r\n")
	if p.calls > 0 {
		rest = strings.TrimLeft(rest, "; \t\r\n")
	}
	switch {
	case rest == "":
		return false
	case strings.HasPrefix(rest, hermes.opening):
		p.enter(hermes, rest)
	case strings.HasPrefix(rest, function.opening):
		p.enter(function, rest)
	case strings.HasPrefix(rest, mistralCalls), strings.HasPrefix(rest, pythonTag):
		mark := mistralCalls
		if rest[0] == '<' {
			mark = pythonTag
		}
		p.lead, p.held = p.lead+mark, rest[len(mark):]
	case slices.ContainsFunc(begins, func(mark string) bool { return strings.HasPrefix(mark, rest) }):
		return false
	case rest[0] == '[' && strings.TrimLeft(rest[1:], " \t\r\n") == "":
		return false
	case rest[0] == '{' || rest[0] == '[' && strings.TrimLeft(rest[1:], " \t\r\n")[0] == '{':
		p.await(rest, "")
	default:
		return p.named(rest)
	}
	return true
}

// enter begins to read what stands between the marks of a tag.
func (p *Parser) enter(t tag, rest string) {
	p.tag, p.lead, p.held, p.mode = t, p.lead+t.opening, rest[len(t.opening):], inTag
}

// await begins to read an object or array.
func (p *Parser) await(rest, name string) {
	p.held, p.mode, p.name, p.scan, p.seen = rest, inObject, name, scanner{}, 0
}

// named looks for a tool's name with its arguments behind it.
func (p *Parser) named(rest string) bool {
	for _, name := range p.tools {
		behind, ok := strings.CutPrefix(rest, name)
		arguments := strings.TrimPrefix(behind, mistralArgs)
		switch {
		case strings.HasPrefix(name, rest), ok && behind != "" && arguments == behind && strings.HasPrefix(mistralArgs, behind), ok && arguments == "":
			return false // it may become one
		case ok && arguments[0] == '{':
			p.lead += rest[:len(rest)-len(arguments)]
			p.await(arguments, name)
			return true
		}
	}
	if p.calls > 0 {
		p.held = rest
	}
	p.held, p.lead, p.mode = p.lead+p.held, "", inText
	return true
}

// object waits for the end of a bare object or array.
func (p *Parser) object() bool {
	for ; p.seen < len(p.held); p.seen++ {
		if !p.scan.next(p.held[p.seen]) {
			continue
		}
		whole := p.held[:p.seen+1]
		if p.whole(whole) {
			p.lead, p.held, p.mode = "", p.held[len(whole):], atStart
			return true
		}
		p.release(len(whole))
		return true
	}
	return false
}

// plain releases text up to what may be a tag.
func (p *Parser) plain() bool {
	if i := strings.Index(p.held, hermes.opening); i >= 0 {
		p.text(p.held[:i])
		p.enter(hermes, p.held[i:])
		return true
	}
	keep := 0
	for n := min(len(p.held), len(hermes.opening)-1); n > 0; n-- {
		if strings.HasSuffix(p.held, hermes.opening[:n]) {
			keep = n
			break
		}
	}
	p.release(len(p.held) - keep)
	return false
}

// release makes the first n held bytes text, and what stands before them.
func (p *Parser) release(n int) {
	p.text(p.lead + p.held[:n])
	p.lead, p.held, p.mode = "", p.held[n:], inText
}

func (p *Parser) text(s string) {
	if s != "" && !(p.single && p.calls > 0) {
		p.out = append(p.out, Item{Text: s})
	}
}

// inside takes what stands in a tag for a call, if it is one.
func (p *Parser) inside(text string) bool {
	if p.tag == hermes {
		return p.whole(text)
	}
	name, arguments, _ := strings.Cut(text, ">")
	return p.found(p.withArguments(name, []byte(arguments)))
}

// whole takes an object for a call, or an array for as many, if all of it is.
func (p *Parser) whole(text string) bool {
	if p.name != "" && p.mode == inObject {
		return p.found(p.withArguments(p.name, []byte(text)))
	}
	if strings.HasPrefix(strings.TrimSpace(text), "[") {
		var all []json.RawMessage
		if json.Unmarshal([]byte(text), &all) != nil || len(all) == 0 {
			return false
		}
		calls := make([]*Call, len(all))
		for i, one := range all {
			if calls[i] = p.parse(one); calls[i] == nil {
				return false
			}
		}
		return p.found(calls...)
	}
	return p.found(p.parse([]byte(text)))
}

// found adds calls; nil is none.
func (p *Parser) found(calls ...*Call) bool {
	for _, c := range calls {
		if c == nil {
			return false
		}
		if p.calls++; !p.single || p.calls == 1 {
			p.out = append(p.out, Item{Call: c})
		}
	}
	return true
}

// parse reads a call as an object; nil where it is none.
func (p *Parser) parse(text []byte) *Call {
	var c struct {
		Name       string          `json:"name"`
		Arguments  json.RawMessage `json:"arguments"`
		Parameters json.RawMessage `json:"parameters"`
	}
	if json.Unmarshal(text, &c) != nil {
		return nil
	}
	if len(c.Arguments) == 0 {
		c.Arguments = c.Parameters
	}
	return p.withArguments(c.Name, c.Arguments)
}

// withArguments makes a call of a name and its arguments: an object, one in quotes, or
// nothing.
func (p *Parser) withArguments(name string, arguments []byte) *Call {
	if !slices.Contains(p.tools, name) {
		return nil
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
		return nil
	}
	return &Call{name, string(arguments)}
}

// scanner finds the end of a JSON object or array.
type scanner struct {
	depth            int
	quoted, escaping bool
}

// next reports whether the object or array ends with a byte.
func (s *scanner) next(c byte) bool {
	switch {
	case s.escaping:
		s.escaping = false
	case s.quoted:
		s.escaping = c == '\\'
		s.quoted = c != '"'
	case c == '"':
		s.quoted = true
	case c == '{' || c == '[':
		s.depth++
	case c == '}' || c == ']':
		s.depth--
		return s.depth == 0
	}
	return false
}
