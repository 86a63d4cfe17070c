package token

import (
	"cmp"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// Segment is a stretch of text of one origin. Only in Special text, which a
// template wrote, do the texts of control and user-defined tokens become these
// tokens.
type Segment struct {
	Text    string
	Special bool
}

// Encode returns the ids of plain text. It never gives a control token, and no
// BOS.
func (v *Vocab) Encode(text string) []int32 {
	return v.EncodeSegments([]Segment{{Text: text}})
}

// EncodeWithSpecial returns the ids of trusted text, in which the texts of
// special tokens stand for them.
func (v *Vocab) EncodeWithSpecial(text string) []int32 {
	return v.EncodeSegments([]Segment{{Text: text, Special: true}})
}

// EncodeSegments returns the ids of the joined text of the segments. Words may
// reach over their bounds, as if the text were one; a special token lies within
// one Special segment, neighbours of which count as one.
func (v *Vocab) EncodeSegments(segments []Segment) []int32 {
	e := encoder{v: v, out: make([]int32, 0, 16)}
	var plain strings.Builder // text since the last special token
	flush := func() {
		e.plain(plain.String())
		plain.Reset()
	}
	for _, s := range joined(segments) {
		rest, tokens := s.Text, &v.always
		if s.Special {
			tokens = &v.special
		}
		for rest != "" {
			at, id := tokens.find(rest)
			if id == None {
				break
			}
			plain.WriteString(rest[:at])
			flush()
			e.out = append(e.out, id)
			rest = rest[at+len(v.bytes[id]):]
		}
		plain.WriteString(rest)
	}
	flush()
	return e.out
}

// plain appends the ids of a text without special tokens, at the beginning or
// after one.
func (e *encoder) plain(text string) {
	switch {
	case text == "":
	case e.v.unigram != nil:
		e.unigrams(text)
	case e.v.runes != nil:
		e.pieces(text)
	case e.v.compose:
		e.v.split(norm.NFC.String(text), e.word)
	default:
		e.v.split(text, e.word)
	}
}

// joined merges neighbours of the same kind.
func joined(segments []Segment) []Segment {
	var out []Segment
	for _, s := range segments {
		if n := len(out); n > 0 && out[n-1].Special == s.Special {
			out[n-1].Text += s.Text
			continue
		}
		out = append(out, s)
	}
	return out
}

// specials finds the texts of some tokens.
type specials struct {
	byFirst [256][]int32 // ids by first byte, the longest text first
	none    bool

	text [][]byte // by id
}

func newSpecials(v *Vocab, want func(id int) bool) specials {
	s := specials{text: v.bytes, none: true}
	for id, b := range v.bytes {
		if len(b) > 0 && want(id) {
			s.none = false
			s.byFirst[b[0]] = append(s.byFirst[b[0]], int32(id))
		}
	}
	for _, ids := range s.byFirst {
		slices.SortStableFunc(ids, func(x, y int32) int { return cmp.Compare(len(s.text[y]), len(s.text[x])) })
	}
	return s
}

// find returns the place and the id of the first special token in a text, the
// longest of those that begin there; None if there is none.
func (s *specials) find(text string) (at int, id int32) {
	for i := 0; i < len(text) && !s.none; i++ {
		for _, id := range s.byFirst[text[i]] {
			if b := s.text[id]; len(text)-i >= len(b) && text[i:i+len(b)] == string(b) {
				return i, id
			}
		}
	}
	return 0, None
}
