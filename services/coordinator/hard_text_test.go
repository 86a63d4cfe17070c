package coordinator

import (
	"errors"
	"strings"
	"testing"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// hardTexts are texts that have been slow for tokenizers: words without an end,
// characters joined of many, and what is no text at all.
var hardTexts = map[string]string{
	"one letter": strings.Repeat("a", 1<<16),
	"two":        strings.Repeat("ab", 1<<15),
	"spaces":     strings.Repeat(" ", 1<<16),
	"lines":      strings.Repeat("\n\r\n\t", 1<<14),
	"digits":     strings.Repeat("0123456789", 1<<13),
	"marks":      strings.Repeat("!?", 1<<15),
	"joined":     strings.Repeat("\U0001F469\u200d\U0001F469\u200d\U0001F467\u200d\U0001F466", 1<<12),
	"combining":  "e" + strings.Repeat("\u0301", 1<<15),
	"mixed":      strings.Repeat("aあ\U0001F600 1'll", 1<<12),
}

// TestHardTextIsTokenized: every text comes back from its ids, whatever it is
// made of. That it comes back at all while the test may run says that the work
// does not grow with the square of the text.
func TestHardTextIsTokenized(t *testing.T) {
	_, m := embedded(t)
	for name, text := range hardTexts {
		ids, err := m.Text.Raw(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		d := m.Text.Detokenizer()
		var back strings.Builder
		for _, id := range ids {
			back.WriteString(d.Push(id))
		}
		back.WriteString(d.Flush())
		if back.String() != text || len(ids) > len(text) {
			t.Errorf("%s: %d bytes became %d ids and %d bytes", name, len(text), len(ids), back.Len())
		}
	}
}

// TestHardTextIsRefusedUnread: what no context can hold is refused by its length,
// before a tokenizer has seen it.
func TestHardTextIsRefusedUnread(t *testing.T) {
	m := toyModel()
	m.Text = unreadable{m.Text}
	for name, text := range hardTexts {
		g := raw(strings.Repeat(text, 200), 10)
		var p *problem
		if _, err := m.prepare(g, 256); !errors.As(err, &p) || p.Code != codeTooLong || p.Retryable {
			t.Errorf("%s: %v", name, err)
		}
		g.Input = &pb.Generation_Prompt{Prompt: strings.Repeat(text, 200)}
		if _, err := m.prepare(g, 256); !errors.As(err, &p) || p.Code != codeTooLong {
			t.Errorf("%s, as a turn: %v", name, err)
		}
	}
}

// unreadable is a tokenizer that nobody may ask.
type unreadable struct{ Text }

func (unreadable) Raw(string) ([]int32, error) { panic("the tokenizer read it") }
