package strictjson

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// str reads a string. The document is known to be valid UTF-8.
func (p *parser) str() (string, error) {
	p.at++
	start := p.at
	var built []byte // nil while the text is a plain slice of the document
	for p.at < len(p.data) {
		switch c := p.data[p.at]; {
		case c == '"':
			text := p.data[start:p.at]
			p.at++
			return string(append(built, text...)), nil
		case c == '\\':
			built = append(built, p.data[start:p.at]...)
			var err error
			if built, err = p.escape(built); err != nil {
				return "", err
			}
			start = p.at
		case c < 0x20:
			return "", p.failAt("holds a control character that is not escaped")
		default:
			p.at++
		}
	}
	return "", p.failAt("is not valid JSON: a string does not end")
}

// escape appends the character that the escape at p.at stands for.
func (p *parser) escape(dst []byte) ([]byte, error) {
	p.at++
	c := p.peek()
	p.at++
	switch c {
	case '"', '\\', '/':
		return append(dst, c), nil
	case 'b':
		return append(dst, '\b'), nil
	case 'f':
		return append(dst, '\f'), nil
	case 'n':
		return append(dst, '\n'), nil
	case 'r':
		return append(dst, '\r'), nil
	case 't':
		return append(dst, '\t'), nil
	case 'u':
		return p.unicode(dst)
	}
	return nil, p.failAt("is not valid JSON: an unknown escape")
}

// unicode appends the character of \uXXXX or of a surrogate pair.
func (p *parser) unicode(dst []byte) ([]byte, error) {
	r, ok := p.hex()
	if !ok {
		return nil, p.failAt(`is not valid JSON: \u needs four hexadecimal digits`)
	}
	if utf16.IsSurrogate(r) {
		var low rune
		if p.word(`\u`) {
			low, _ = p.hex()
		}
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return nil, p.failAt("holds half a surrogate pair, which is no character")
		}
	}
	if r == 0 {
		return nil, p.failAt("holds the character NUL")
	}
	return utf8.AppendRune(dst, r), nil
}

func (p *parser) hex() (rune, bool) {
	if len(p.data)-p.at < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(p.data[p.at:p.at+4]), 16, 32) // takes no sign
	if err != nil {
		return 0, false
	}
	p.at += 4
	return rune(n), true
}
