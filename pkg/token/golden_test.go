package token_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/token"
)

// smollm2 loads the vocabulary of SmolLM2 from its GGUF metadata.
func smollm2(tb testing.TB) *token.Vocab {
	tb.Helper()
	packed, err := os.ReadFile(filepath.Join(golden.Dir(tb), "tokenizers", "smollm2-vocab.gguf.gz"))
	if err != nil {
		tb.Fatal(err)
	}
	unzip, err := gzip.NewReader(bytes.NewReader(packed))
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

// fromFile loads the vocabulary of a model file.
func fromFile(tb testing.TB, path string) *token.Vocab {
	tb.Helper()
	file, err := gguf.Open(path, gguf.Options{Formats: formats.All()})
	if err != nil {
		tb.Fatal(err)
	}
	defer file.Close()
	return fromGGUF(tb, file)
}

func fromGGUF(tb testing.TB, file *gguf.File) *token.Vocab {
	tb.Helper()
	cfg, err := token.ConfigFrom(file.Meta())
	if err != nil {
		tb.Fatal(err)
	}
	v, err := token.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// fromJSON loads a tokenizer.json of byte-level BPE.
func fromJSON(tb testing.TB, path, pre string) *token.Vocab {
	tb.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	var file struct {
		Added []struct {
			ID      int
			Content string
			Special bool
		} `json:"added_tokens"`
		Model struct {
			Vocab  map[string]int
			Merges []json.RawMessage
		}
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		tb.Fatal(err)
	}
	n := len(file.Model.Vocab)
	for _, a := range file.Added {
		n = max(n, a.ID+1)
	}
	cfg := token.Config{
		Model: "gpt2", Pre: pre, Tokens: make([]string, n), Types: slices.Repeat([]token.Type{token.Normal}, n),
		BOS: token.None, EOS: token.None, EOT: token.None, EOM: token.None, PAD: token.None, UNK: token.None,
	}
	for text, id := range file.Model.Vocab {
		cfg.Tokens[id] = text
	}
	for _, a := range file.Added {
		cfg.Tokens[a.ID] = a.Content
		cfg.Types[a.ID] = token.Control
	}
	for _, m := range file.Model.Merges {
		cfg.Merges = append(cfg.Merges, mergeText(tb, m))
	}
	v, err := token.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// mergeText reads a merge, which is written "a b" or ["a", "b"].
func mergeText(tb testing.TB, m json.RawMessage) string {
	tb.Helper()
	var line string
	if json.Unmarshal(m, &line) == nil {
		return line
	}
	var parts [2]string
	if err := json.Unmarshal(m, &parts); err != nil {
		tb.Fatal(err)
	}
	return parts[0] + " " + parts[1]
}

// goldenCase is a line of the tokenizer references.
type goldenCase struct {
	Text         string
	IDs          []int32
	ParseSpecial []int32 `json:"ids_parse_special"`
	FastSpecial  []int32 `json:"hf_fast_ids_parse_special"` // where the reference does not parse them
	Decoded      *string
	DecodedB64   *string `json:"decoded_b64"`
}

func (c goldenCase) decoded(t *testing.T) string {
	switch {
	case c.DecodedB64 != nil:
		raw, err := base64.StdEncoding.DecodeString(*c.DecodedB64)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	case c.Decoded != nil:
		return *c.Decoded
	}
	return c.Text
}

func TestFixtureTokenizers(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(golden.Dir(t), "tokenizers", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d tokenizers, %v", len(files), err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		t.Run(name, func(t *testing.T) {
			var v *token.Vocab
			switch dir := golden.Dir(t); name {
			default:
				t.Fatalf("no vocabulary for %s", name)
			case "smollm2":
				v = smollm2(t)
			case "gpt2":
				v = fromJSON(t, filepath.Join(dir, "tokenizers", "gpt2", "tokenizer.json"), "gpt-2")
			case "qwen2":
				v = fromJSON(t, filepath.Join(dir, "models", "qwen2", "tokenizer.json"), "qwen2")
			case "spm":
				v = fromFile(t, filepath.Join(dir, "models", "mistral", "model-f16.gguf"))
			case "gemma":
				v = fromFile(t, filepath.Join(dir, "models", "gemma2", "model-f16.gguf"))
			case "llama3":
				v = fromJSON(t, filepath.Join(dir, "models", "llama", "tokenizer.json"), "llama-bpe")
			}
			var file struct{ Cases []goldenCase }
			golden.JSON(t, filepath.Join("tokenizers", name+".json"), &file)
			if len(file.Cases) < 10 {
				t.Fatalf("only %d cases", len(file.Cases))
			}
			for _, c := range file.Cases {
				checkCase(t, v, c)
			}
		})
	}
}

func checkCase(t *testing.T, v *token.Vocab, c goldenCase) {
	t.Helper()
	got := v.Encode(c.Text)
	if !slices.Equal(got, c.IDs) {
		t.Errorf("Encode(%.80q) = %v, want %v", c.Text, got, c.IDs)
		return
	}
	want := c.ParseSpecial
	if want == nil {
		want = c.FastSpecial
	}
	if want == nil {
		want = c.IDs
	}
	if got := v.EncodeWithSpecial(c.Text); !slices.Equal(got, want) {
		t.Errorf("EncodeWithSpecial(%.80q) = %v, want %v", c.Text, got, want)
	}
	if got := v.Decode(c.IDs); got != c.decoded(t) {
		t.Errorf("Decode of %.80q = %.80q, want %.80q", c.Text, got, c.decoded(t))
	}
}

func TestTinyTokenizer(t *testing.T) {
	root := golden.Root()
	raw, err := os.ReadFile(filepath.Join(root, "testdata", "tiny", "tokenizer_cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Text string
		IDs  []int32
	}
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	file, err := gguf.Open(filepath.Join(root, "models", "tiny", "tiny-q8_0.gguf"), gguf.Options{Formats: formats.All()})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fromFile := fromGGUF(t, file)
	fromText := fromJSON(t, filepath.Join(root, "testdata", "tiny", "tokenizer.json"), "smollm")
	for _, c := range cases {
		for name, v := range map[string]*token.Vocab{"gguf": fromFile, "json": fromText} {
			if got := v.EncodeWithSpecial(c.Text); !slices.Equal(got, c.IDs) {
				t.Errorf("%s: %q gives %v, want %v", name, c.Text, got, c.IDs)
			}
		}
	}
	if fromFile.EOS() != 2 || fromFile.AddBOS() || !slices.Contains(fromFile.End(), 0) || !slices.Contains(fromFile.End(), 2) {
		t.Errorf("eos %d, add bos %v, end %v", fromFile.EOS(), fromFile.AddBOS(), fromFile.End())
	}
}
