package token

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func words(text string) (out []string) {
	splitTekken(text, func(w string) { out = append(out, w) })
	return out
}

// TestTekken follows the pattern by hand, where alternatives are tried in order.
func TestTekken(t *testing.T) {
	for text, want := range map[string][]string{
		"HelloWorld":   {"Hello", "World"},
		"HTTPServer x": {"HTTPServer", " x"}, // all that may be upper case, then lower
		"ABC def":      {"ABC", " def"},
		"don't":        {"don", "'t"},
		"日A":           {"日", "A"}, // what follows may not be lower case
		"A日B日b":        {"A日B日b"},
		"1234":         {"1", "2", "3", "4"},
		"a/b //\n/x":   {"a", "/b", " //\n/", "x"},
		"日本語 text":     {"日本語", " text"},
		"e\u0301a":     {"e\u0301a"}, // a mark goes on
		"\u0301\u0301": {"\u0301\u0301"},
		"  \n  a":      {"  \n", " ", " a"},
		"x  ":          {"x", "  "},
		"!?\n":         {"!?\n"},
		"\n\nA":        {"\n\n", "A"},
		"\tA":          {"\tA"},
	} {
		if got := words(text); !slices.Equal(got, want) {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

// TestTekkenKeepsText: the words are the text, none is empty, and no number has two
// digits.
func TestTekkenKeepsText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.RuneFrom([]rune("aB1 \n\r\t/'.\u0301ǅ日é\u00a0"))).Draw(t, "text")
		got := words(text)
		if strings.Join(got, "") != text || slices.Contains(got, "") {
			t.Fatalf("%q is %q", text, got)
		}
		for _, w := range got {
			if r, n := utf8.DecodeRuneInString(w); unicode.IsNumber(r) && n != len(w) {
				t.Fatalf("the number %q", w)
			}
		}
	})
}
