package thought_test

import (
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/services/coordinator/thought"
)

// TestSplit: thoughts and answers are told apart, however the text is cut.
func TestSplit(t *testing.T) {
	for _, c := range []struct {
		text         string
		opened       bool
		thinks, says string
	}{
		{"Hello", false, "", "Hello"},
		{"", false, "", ""},
		{" \n", false, "", " \n"},
		{"<think>\nA b.\n\nc\n</think>\n\nHello", false, "A b.\n\nc", "Hello"},
		{"\n<think>a</think>b", false, "a", "b"},
		{"<think>\n\n</think>\n\nHello", false, "", "Hello"},
		{"<think>a</think>", false, "a", ""},
		{"a < b </thin> c</think> d", true, "a < b </thin> c", "d"},
		{"Hello <think>a</think>", false, "", "Hello <think>a</think>"},
		{"<thinking>", false, "", "<thinking>"},
		{"<thin", false, "", "<thin"},
		{"<think>never ends \n", false, "never ends", ""},
		{"<think>a</think>b</think>c", false, "a", "b</think>c"},
		{"<think>a <think>b</think>c", false, "a <think>b", "c"},
		{"é</think>日本", true, "é", "日本"},
	} {
		for _, pieces := range [][]string{{c.text}, strings.Split(c.text, "")} {
			s := thought.New(c.opened)
			var thinks, says strings.Builder
			for _, p := range pieces {
				a, b := s.Push(p)
				if a != "" && says.Len() > 0 {
					t.Errorf("%q: thought after it answered", c.text)
				}
				thinks.WriteString(a)
				says.WriteString(b)
			}
			says.WriteString(s.Flush())
			if thinks.String() != c.thinks || says.String() != c.says {
				t.Errorf("%q in %d pieces: %q and %q, want %q and %q", c.text, len(pieces), thinks.String(), says.String(), c.thinks, c.says)
			}
		}
	}
}

func TestOpens(t *testing.T) {
	for prompt, want := range map[string]bool{
		"<|Assistant|><think>\n": true, "<|im_start|>assistant\n<think>\n\n</think>\n\n": false, "": false, "think>": false,
	} {
		if thought.Opens(prompt) != want {
			t.Errorf("%q: %t", prompt, !want)
		}
	}
}
