package template

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxTokens bounds the tokens of one tag, and so the size of what is made of it.
const maxTokens = 4096

type lexeme struct {
	kind lexKind
	text string // of strings: their value
}

type lexKind uint8

const (
	lexEnd lexKind = iota
	lexName
	lexNumber
	lexString
	lexSymbol
)

// symbols are the operators and delimiters, the longer before the shorter.
var symbols = []string{
	"**", "//", "==", "!=", "<=", ">=",
	"+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ",", ":", ".", "|",
}

// lex cuts the content of a tag into lexemes.
func lex(src string) ([]lexeme, error) {
	var out []lexeme
	for i := 0; i < len(src); {
		c := src[i]
		var l lexeme
		var n int
		var err error
		switch {
		case strings.IndexByte(" \t\n\r", c) >= 0:
			i++
			continue
		case c == '\'' || c == '"':
			l.kind = lexString
			l.text, n, err = lexQuoted(src[i:])
		case c >= '0' && c <= '9':
			n = numberLength(src[i:])
			l = lexeme{lexNumber, strings.ReplaceAll(src[i:i+n], "_", "")}
		case isNameByte(c):
			for n = 1; i+n < len(src) && (isNameByte(src[i+n]) || src[i+n] >= '0' && src[i+n] <= '9'); n++ {
			}
			l = lexeme{lexName, src[i : i+n]}
			if strings.HasPrefix(l.text, "__") {
				err = fmt.Errorf("%w: name %.40q is reserved", ErrTemplate, l.text)
			}
		default:
			l.kind = lexSymbol
			l.text, err = lexSymbolAt(src[i:])
			n = len(l.text)
		}
		if err != nil {
			return nil, err
		}
		if out = append(out, l); len(out) > maxTokens {
			return nil, fmt.Errorf("%w: more than %d tokens in a tag", ErrBudget, maxTokens)
		}
		i += n
	}
	return out, nil
}

func isNameByte(c byte) bool { return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

func lexSymbolAt(src string) (string, error) {
	for _, s := range symbols {
		if strings.HasPrefix(src, s) {
			return s, nil
		}
	}
	r, _ := utf8.DecodeRuneInString(src)
	return "", fmt.Errorf("%w: unexpected %q", ErrTemplate, r)
}

// numberLength returns the length of the number that src begins with.
func numberLength(src string) int {
	digits := func(i int) int {
		for i < len(src) && (src[i] >= '0' && src[i] <= '9' || src[i] == '_') {
			i++
		}
		return i
	}
	n := digits(0)
	if n+1 < len(src) && src[n] == '.' && src[n+1] >= '0' && src[n+1] <= '9' {
		n = digits(n + 1)
	}
	return n
}

// escapes of string literals that stand for one byte.
var escapes = map[byte]string{
	'n': "\n", 't': "\t", 'r': "\r", 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '0': "\x00",
	'\\': "\\", '\'': "'", '"': "\"", '\n': "",
}

// lexQuoted returns the value and the length of the literal that src begins
// with.
func lexQuoted(src string) (value string, n int, err error) {
	var b strings.Builder
	for i := 1; i < len(src); i++ {
		switch c := src[i]; {
		case c == src[0]:
			return b.String(), i + 1, nil
		case c != '\\' || i+1 == len(src):
			b.WriteByte(c)
		default:
			i++
			if text, ok := escapes[src[i]]; ok {
				b.WriteString(text)
			} else if digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[src[i]]; digits > 0 {
				if i+digits >= len(src) {
					break
				}
				code, err := strconv.ParseUint(src[i+1:i+1+digits], 16, 32)
				if err != nil || code >= markShift {
					return "", 0, fmt.Errorf("%w: escape \\%s", ErrTemplate, src[i:i+1+digits])
				}
				b.WriteRune(rune(code))
				i += digits
			} else {
				b.WriteString(src[i-1 : i+1])
			}
		}
	}
	return "", 0, fmt.Errorf("%w: unclosed string", ErrTemplate)
}
