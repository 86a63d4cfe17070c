package template

import (
	"strings"
	"unicode/utf8"
)

// A marked rune is a rune of a user moved up by markShift: from the planes 0 to 3,
// which hold all assigned characters but a few, to the planes 4 to 7, which are
// unassigned. Runes above them need no mark: a template may not have them, so
// they are always a user's.
const (
	markShift = 0x40000
	markEnd   = markShift + 0x40000
	markLead  = 0xF1 // first byte of every marked rune in UTF-8, and of no other
)

// mark returns text as a user's. Runes that look like marks become U+FFFD.
func mark(text string) string {
	var b strings.Builder
	b.Grow(4 * len(text))
	for _, r := range text {
		b.WriteRune(markRune(r))
	}
	return b.String()
}

func markRune(r rune) rune {
	switch {
	case r < markShift:
		return r + markShift
	case r < markEnd:
		return utf8.RuneError + markShift
	}
	return r
}

func unmarkRune(r rune) rune {
	if r >= markShift && r < markEnd {
		return r - markShift
	}
	return r
}

// isMarked reports whether a rune is a user's.
func isMarked(r rune) bool { return r >= markShift }

func hasMarks(s string) bool { return strings.IndexByte(s, markLead) >= 0 }

// plain returns the text without its marks.
func plain(s string) string {
	if !hasMarks(s) {
		return s
	}
	return strings.Map(unmarkRune, s)
}

// mapPlain applies f to the runes of a text and keeps their marks.
func mapPlain(s string, f func(rune) rune) string {
	return strings.Map(func(r rune) rune {
		if r >= markShift && r < markEnd {
			return markRune(f(r - markShift))
		}
		return f(r)
	}, s)
}

func firstRune(s string) rune {
	r, _ := utf8.DecodeRuneInString(s)
	return r
}

// cut splits s around sep, which is compared without marks, into at most n
// pieces, all if n < 0. The pieces keep their marks. sep is not empty.
func cut(s, sep string, n int) []string {
	sep = plain(sep)
	if !hasMarks(s) {
		return strings.SplitN(s, sep, n)
	}
	var pieces []string
	text := plain(s)
	for n < 0 || len(pieces)+1 < n {
		i := strings.Index(text, sep)
		if i < 0 {
			break
		}
		at := marked(s, i)
		end := at + marked(s[at:], len(sep))
		pieces = append(pieces, s[:at])
		s, text = s[end:], text[i+len(sep):]
	}
	return append(pieces, s)
}

// marked returns the length of the beginning of s that is size bytes long
// without marks.
func marked(s string, size int) int {
	at := 0
	for size > 0 && at < len(s) {
		r, n := utf8.DecodeRuneInString(s[at:])
		at += n
		if plainRune := unmarkRune(r); plainRune != r {
			n = utf8.RuneLen(plainRune)
		}
		size -= n
	}
	return at
}
