package template

import (
	"fmt"
	"strings"
)

// piece is a stretch of a template: text, an output {{ }}, or a statement {% %}.
type piece struct {
	kind pieceKind
	text string // without delimiters, and after the white space rules
	line int
}

type pieceKind uint8

const (
	pieceText pieceKind = iota
	pieceOutput
	pieceStatement
	pieceComment
)

// spacing is what a tag asks of the text on one side of it.
type spacing byte

const (
	spaceDefault spacing = 0
	spaceTrim    spacing = '-' // drop all white space
	spaceKeep    spacing = '+' // keep even what the defaults drop
)

// maxTags bounds the number of tags, and so the depth of what the engine parses.
const maxTags = 1 << 12

// scanner cuts a template into pieces, by the rules of Jinja with trim_blocks and
// lstrip_blocks on, which is how chat templates are written.
type scanner struct {
	src    string
	at     int
	line   int
	pieces []piece
	tags   int
	raw    bool      // inside {% raw %}
	after  spacing   // what the last tag asks of the text after it
	last   pieceKind // kind of the last tag
}

func scan(source string) ([]piece, error) {
	s := scanner{src: strings.ReplaceAll(source, "\r\n", "\n"), line: 1, after: spaceKeep}
	for s.at < len(s.src) {
		if err := s.next(); err != nil {
			return nil, err
		}
	}
	if s.raw {
		return nil, s.errorf("unclosed raw block")
	}
	return s.pieces, nil
}

func (s *scanner) errorf(format string, args ...any) error {
	return fmt.Errorf("%w: line %d: %s", ErrTemplate, s.line, fmt.Sprintf(format, args...))
}

// next reads text up to a tag, and the tag.
func (s *scanner) next() error {
	open := s.findTag()
	text := s.src[s.at:open]
	if open == len(s.src) {
		// Jinja drops one line break at the very end of a template.
		s.addText(strings.TrimSuffix(text, "\n"), spaceKeep, pieceOutput)
		s.at = open
		return nil
	}
	kind := map[byte]pieceKind{'{': pieceOutput, '%': pieceStatement, '#': pieceComment}[s.src[open+1]]
	start, before := open+2, spaceDefault
	if start < len(s.src) && (s.src[start] == '-' || s.src[start] == '+') {
		before = spacing(s.src[start])
		start++
	}
	end := s.findClose(start, kind)
	if end < 0 {
		s.line += strings.Count(text, "\n")
		return s.errorf("unclosed tag")
	}
	s.addText(text, before, kind)
	if s.tags++; s.tags > maxTags {
		return fmt.Errorf("%w: more than %d tags", ErrBudget, maxTags)
	}
	inner, after := s.src[start:end], spaceDefault
	if n := len(inner); n > 0 && (inner[n-1] == '-' || inner[n-1] == '+' && kind != pieceOutput) {
		after, inner = spacing(inner[n-1]), inner[:n-1]
	}
	s.addTag(kind, inner)
	s.line += strings.Count(s.src[open:end], "\n")
	s.after, s.last, s.at = after, kind, end+2
	return nil
}

// findTag returns the place of the next tag; inside a raw block only its end is
// one.
func (s *scanner) findTag() int {
	for i := s.at; i+1 < len(s.src); i++ {
		if s.src[i] != '{' {
			continue
		}
		switch s.src[i+1] {
		case '{', '#':
			if !s.raw {
				return i
			}
		case '%':
			if word := strings.TrimLeft(s.src[i+2:], "-+ \t\n"); !s.raw || strings.HasPrefix(word, "endraw") {
				return i
			}
		}
	}
	return len(s.src)
}

// findClose returns the place of the tag's closing delimiter, outside of quotes
// and, for an output, of braces.
func (s *scanner) findClose(start int, kind pieceKind) int {
	if kind == pieceComment {
		if i := strings.Index(s.src[start:], "#}"); i >= 0 {
			return start + i
		}
		return -1
	}
	depth := 0
	for i := start; i+1 < len(s.src); i++ {
		switch c := s.src[i]; {
		case c == '\'' || c == '"':
			for i++; i < len(s.src) && s.src[i] != c; i++ {
				if s.src[i] == '\\' {
					i++
				}
			}
		case kind == pieceStatement && c == '%' && s.src[i+1] == '}':
			return i
		case kind == pieceOutput && depth == 0 && c == '}' && s.src[i+1] == '}':
			return i
		case c == '{':
			depth++
		case c == '}':
			depth--
		}
	}
	return -1
}

// addText appends text after the rules of the tags around it.
func (s *scanner) addText(text string, before spacing, next pieceKind) {
	s.line += strings.Count(text, "\n")
	lineStart := len(s.pieces) == 0 && s.tags == 0
	switch {
	case before == spaceTrim:
		text = strings.TrimRight(text, " \t\n\r\f\v")
	case before == spaceDefault && next != pieceOutput:
		kept := strings.TrimRight(text, " \t")
		if strings.HasSuffix(kept, "\n") || kept == "" && lineStart {
			text = kept
		}
	}
	switch {
	case s.after == spaceTrim:
		text = strings.TrimLeft(text, " \t\n\r\f\v")
	case s.after == spaceDefault && s.last != pieceOutput:
		text = strings.TrimPrefix(text, "\n")
	}
	if text != "" {
		s.pieces = append(s.pieces, piece{pieceText, text, s.line})
	}
}

// addTag appends an output or a statement; raw blocks are dealt with here.
func (s *scanner) addTag(kind pieceKind, inner string) {
	inner = strings.TrimSpace(inner)
	switch {
	case kind == pieceComment:
	case kind == pieceStatement && inner == "raw":
		s.raw = true
	case kind == pieceStatement && inner == "endraw":
		s.raw = false
	default:
		s.pieces = append(s.pieces, piece{kind, inner, s.line})
	}
}
