package gateway

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// appendQuoted appends s as the JSON string that encoding/json makes of it. The
// text of most tokens needs no escape.
func appendQuoted(dst []byte, s string) []byte {
	if !plainText(s) {
		b, err := json.Marshal(s)
		if err != nil {
			panic("gateway: " + err.Error()) // every string has a JSON form
		}
		return append(dst, b...)
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// plainText reports whether s stands for itself between quotes.
func plainText(s string) bool {
	ascii := true
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&':
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return ascii || utf8.ValidString(s) && !strings.ContainsAny(s, "\u2028\u2029")
}
