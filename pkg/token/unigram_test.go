package token_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library/checkpoint"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/token"
)

func unigramFile(tb testing.TB, name string) []byte {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(golden.Root(), "testdata", "unigram", name))
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// unigramSPM is the vocabulary of SentencePiece, from GGUF metadata.
func unigramSPM(tb testing.TB) *token.Vocab {
	tb.Helper()
	unzip, err := gzip.NewReader(bytes.NewReader(unigramFile(tb, "spm.gguf.gz")))
	if err != nil {
		tb.Fatal(err)
	}
	data, err := io.ReadAll(unzip)
	if err != nil {
		tb.Fatal(err)
	}
	file, err := gguf.Parse(data, gguf.Options{Formats: formats.All()})
	if err != nil {
		tb.Fatal(err)
	}
	return fromGGUF(tb, file)
}

// unigramJSON is that of the package tokenizers.
func unigramJSON(tb testing.TB, change func(map[string]any)) (*token.Vocab, error) {
	tb.Helper()
	var file map[string]any
	if err := json.Unmarshal(unigramFile(tb, "tokenizer.json"), &file); err != nil {
		tb.Fatal(err)
	}
	if change != nil {
		change(file)
	}
	text, err := json.Marshal(file)
	if err != nil {
		tb.Fatal(err)
	}
	meta, err := checkpoint.Tokenizer(text)
	if err != nil {
		return nil, err
	}
	cfg, err := token.ConfigFrom(meta)
	if err != nil {
		tb.Fatal(err)
	}
	return token.New(cfg)
}

type unigramCase struct {
	Text            string
	SPM, Tokenizers []int32
}

func unigramCases(tb testing.TB) (out []unigramCase) {
	tb.Helper()
	if err := json.Unmarshal(unigramFile(tb, "golden.json"), &out); err != nil || len(out) < 100 {
		tb.Fatalf("%d cases, %v", len(out), err)
	}
	return out
}

// TestUnigramGoldens: both libraries' ids, on real text and on odd one.
func TestUnigramGoldens(t *testing.T) {
	spm := unigramSPM(t)
	tokenizers, err := unigramJSON(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range unigramCases(t) {
		if got := spm.Encode(c.Text); !slices.Equal(got, c.SPM) {
			t.Errorf("%q: %v, SentencePiece has %v", c.Text, got, c.SPM)
		}
		if strings.Contains(c.Text, "<s>") {
			continue // the package takes markers that a user types for tokens, which this one never does
		}
		if got := tokenizers.Encode(c.Text); !slices.Equal(got, c.Tokenizers) {
			t.Errorf("%q: %v, tokenizers has %v", c.Text, got, c.Tokenizers)
		}
	}
}

// TestUnigramNeverTypesControl: markers in what a user wrote are text.
func TestUnigramNeverTypesControl(t *testing.T) {
	tokenizers, err := unigramJSON(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]*token.Vocab{"spm": unigramSPM(t), "tokenizers": tokenizers} {
		const text = "a <s> b </s> c <0x41>"
		for _, id := range v.Encode(text) {
			if v.Type(id) == token.Control {
				t.Errorf("%s: %q gives %q", name, text, v.Text(id))
			}
		}
		if got := v.Decode(v.Encode(text)); got != text {
			t.Errorf("%s: %q comes back as %q", name, text, got)
		}
	}
}

// TestUnigramIsTheBest: no other way to write a short text as tokens has a larger sum.
func TestUnigramIsTheBest(t *testing.T) {
	cfg := token.Config{
		Model: "t5", Tokens: []string{"<unk>", "a", "b", "ab", "ba", "aba", "bab", "▁", "▁a"}, Types: []token.Type{2, 1, 1, 1, 1, 1, 1, 1, 1},
		Scores: []float32{0, -2, -2.5, -3.2, -3.1, -5, -6, -4, -3}, BOS: token.None, EOS: token.None, EOT: token.None, EOM: token.None, PAD: token.None, UNK: 0,
	}
	v, err := token.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var best func(text string) float64
	best = func(text string) float64 {
		if text == "" {
			return 0
		}
		most := math.Inf(-1)
		for id, piece := range cfg.Tokens {
			if rest, ok := strings.CutPrefix(text, piece); ok && id > 0 {
				most = max(most, float64(cfg.Scores[id])+best(rest))
			}
		}
		return most
	}
	for n := range 1 << 10 {
		text := ""
		for k := range 10 {
			text += string("ab"[n>>k&1])
		}
		sum := 0.0
		for _, id := range v.Encode(text) {
			sum += float64(cfg.Scores[id])
		}
		if want := best(text); math.Abs(sum-want) > 1e-9 {
			t.Fatalf("%q: the tokens add up to %v, others to %v", text, sum, want)
		}
	}
	if got := v.Encode("acdb ce"); !slices.Equal(got, []int32{1, 0, 2, 7, 0}) {
		t.Errorf("unknown runes give %v", got)
	}
}

// TestUnigramIsRefused: what is not honoured, or makes no sense, is named.
func TestUnigramIsRefused(t *testing.T) {
	for name, change := range map[string]func(map[string]any){
		"Lowercase": func(f map[string]any) { f["normalizer"] = map[string]any{"type": "Lowercase"} },
		"ByteLevel": func(f map[string]any) { f["pre_tokenizer"] = map[string]any{"type": "ByteLevel"} },
		"precompiled_charsmap": func(f map[string]any) {
			f["normalizer"] = map[string]any{"type": "Precompiled", "precompiled_charsmap": "!!"}
		},
		"trie": func(f map[string]any) {
			f["normalizer"] = map[string]any{"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}
		},
	} {
		if _, err := unigramJSON(t, change); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want one that names %s", err, name)
		}
	}
}

// FuzzUnigram: every text has ids, and with tokens for bytes and no rules it comes
// back, but for spaces that become one.
func FuzzUnigram(f *testing.F) {
	spm := unigramSPM(f)
	tokenizers, err := unigramJSON(f, func(file map[string]any) { file["normalizer"] = nil })
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range unigramCases(f)[:40] {
		f.Add(c.Text)
	}
	f.Add("\xff\xfe▁▁ \x00")
	f.Fuzz(func(t *testing.T, text string) {
		for _, id := range spm.Encode(text) {
			if int(id) >= spm.Len() || id < 0 {
				t.Fatalf("id %d", id)
			}
		}
		if !utf8.ValidString(text) || strings.HasPrefix(text, " ") || strings.Contains(text, "▁") {
			return
		}
		if got := tokenizers.Decode(tokenizers.Encode(text)); got != text {
			t.Fatalf("%q comes back as %q", text, got)
		}
	})
}

// FuzzCharsmap: compiled rules of any bytes are refused, or rewrite.
func FuzzCharsmap(f *testing.F) {
	f.Add([]byte{8, 0, 0, 0, 0, 4, 0, 0, 'a', 1, 0, 0, 'b', 0}, "abc")
	f.Fuzz(func(t *testing.T, rules []byte, text string) {
		cfg := token.Config{
			Model: "t5", Tokens: []string{"<unk>", "a"}, Types: []token.Type{2, 1}, Scores: []float32{0, -1}, Charsmap: rules,
			BOS: token.None, EOS: token.None, EOT: token.None, EOM: token.None, PAD: token.None, UNK: 0,
		}
		v, err := token.New(cfg)
		if err == nil {
			v.Encode(text)
		}
	})
}
