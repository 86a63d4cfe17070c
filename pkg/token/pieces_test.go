package token_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/token"
)

// smallPieces is a vocabulary of pieces: runes, two words, a run of spaces, a marker and
// a few bytes.
func smallPieces(edit func(*token.Config)) token.Config {
	cfg := token.Config{
		Model: "llama", BOS: 1, EOS: 2, EOT: token.None, EOM: token.None, PAD: token.None, UNK: 0, SpacePrefix: true,
		Tokens: []string{"<unk>", "<s>", "<|user|>", "▁▁▁", "<0xC3>", "<0xA9>", "▁", "a", "b", "ab", "▁a", "▁ab", "▁▁"},
		Types: []token.Type{token.Unknown, token.Control, token.UserDefined, token.UserDefined, token.Byte, token.Byte,
			token.Normal, token.Normal, token.Normal, token.Normal, token.Normal, token.Normal, token.Normal},
		Scores: []float32{0, 0, 0, 0, 0, 0, -9, -9, -9, -2, -1, -3, -4},
	}
	if edit != nil {
		edit(&cfg)
	}
	return cfg
}

func TestPieces(t *testing.T) {
	v, err := token.New(smallPieces(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text    string
		special bool
		want    []int32
	}{
		{"", false, nil},
		{"ab", false, []int32{11}},               // ▁a, then ▁ab
		{"bab", false, []int32{6, 8, 9}},         // ab is the best
		{"b", false, []int32{6, 8}},              // after the space that the text does not have
		{"é", false, []int32{6, 4, 5}},           // its bytes
		{"ü", false, []int32{6, 0}},              // a byte is missing
		{"\xc3a", false, []int32{6, 4, 7}},       // no rune
		{"b   b", false, []int32{6, 8, 3, 6, 8}}, // a run of spaces stands for itself
		{"<s>", true, []int32{1}},                // what a template writes
		{"<|user|>b", true, []int32{2, 6, 8}},    //
		{"<s>", false, []int32{6, 0, 0, 0}},      // what a user writes
		{"<|user|>", false, slices.Concat([]int32{6}, slices.Repeat([]int32{0}, 8))},
	} {
		got := v.Encode(c.text)
		if c.special {
			got = v.EncodeWithSpecial(c.text)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q is %v, want %v", c.text, got, c.want)
		}
	}
	if got := v.Decode([]int32{1, 6, 7, 4, 5, 10}); got != "aé a" {
		t.Errorf("decoded %q", got)
	}
}

// TestPiecesMergeAlike: long texts merge by a heap, short ones by looking at all
// pairs; words that do not reach over a rune without a token merge alike.
func TestPiecesMergeAlike(t *testing.T) {
	v, err := token.New(smallPieces(nil))
	if err != nil {
		t.Fatal(err)
	}
	word := "abba é ab  aab"
	one := v.Encode(word)
	var want []int32
	for range 20 {
		want = append(want, one...)
		want = append(want, 0) // the unknown token of "|"
	}
	got := v.Encode(strings.Repeat(word+"| ", 20))
	got = got[:len(want)]
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPiecesRefuseContradictions(t *testing.T) {
	for name, edit := range map[string]func(*token.Config){
		"no scores":          func(c *token.Config) { c.Scores = nil },
		"a score of NaN":     func(c *token.Config) { nan := float32(0); c.Scores[7] = nan / nan },
		"a byte of no value": func(c *token.Config) { c.Tokens[4] = "<0xZZ>" },
		"a giant token":      func(c *token.Config) { c.Tokens[9] = strings.Repeat("ab", 1000) },
	} {
		if _, err := token.New(smallPieces(edit)); !errors.Is(err, token.ErrTokenizer) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
