package token

import (
	"unicode/utf8"
)

// Decode returns the text of ids, without the space that the vocabulary puts
// before a text. Control tokens have none. It gives the bytes as they are, which
// need not be valid UTF-8.
func (v *Vocab) Decode(ids []int32) string {
	var out []byte
	for _, id := range ids {
		out = append(out, v.visible(id)...)
	}
	if v.cfg.SpacePrefix && len(out) > 0 && out[0] == ' ' {
		out = out[1:]
	}
	return string(out)
}

// Bytes returns the bytes that an id adds to a text: none for control tokens.
// The caller must not change them.
func (v *Vocab) Bytes(id int32) []byte { return v.visible(id) }

// visible returns the bytes that an id adds to a text.
func (v *Vocab) visible(id int32) []byte {
	switch v.Type(id) {
	case Control, Unknown, Unused:
		return nil
	}
	return v.bytes[id]
}

// Detokenizer turns a stream of ids into valid UTF-8. A rune whose bytes are
// spread over tokens comes out whole with its last byte; bytes that can be part
// of no rune come out as U+FFFD. It belongs to one goroutine.
type Detokenizer struct {
	v    *Vocab
	held []byte // the beginning of a rune, at most 3 bytes between calls
}

// NewDetokenizer returns a detokenizer at the start of a text.
func (v *Vocab) NewDetokenizer() *Detokenizer { return &Detokenizer{v: v} }

// Push returns the text that an id completes, which may be empty.
func (d *Detokenizer) Push(id int32) string {
	d.held = append(d.held, d.v.visible(id)...)
	return d.take(false)
}

// Flush ends the text: what is held becomes U+FFFD.
func (d *Detokenizer) Flush() string { return d.take(true) }

// take removes the complete runes from held, and at the end all of it.
func (d *Detokenizer) take(end bool) string {
	var out []byte
	rest := d.held
	for len(rest) > 0 && (end || utf8.FullRune(rest)) {
		r, n := utf8.DecodeRune(rest)
		out = utf8.AppendRune(out, r)
		rest = rest[n:]
	}
	d.held = append(d.held[:0], rest...)
	return string(out)
}
