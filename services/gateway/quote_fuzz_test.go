package gateway

import (
	"encoding/json"
	"testing"
)

// FuzzQuoted holds the encoding of a token frame against encoding/json.
func FuzzQuoted(f *testing.F) {
	for _, s := range []string{"", " word", "a\"b\\c", "<&>", "\x00\x1f\x7f", "h\u00e9\u4e16\u754c \U0001f600", "\u2028 \u2029", "\xff\xc3", "\ufffd", "tab\tline\n"} {
		f.Add(s, uint64(len(s)))
	}
	f.Fuzz(func(t *testing.T, s string, seq uint64) {
		want, err := json.Marshal(plainToken{"token", s, seq})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(appendToken(nil, s, seq)); got != string(want) {
			t.Errorf("%q is encoded as %s, want %s", s, got, want)
		}
	})
}
