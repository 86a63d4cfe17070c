package token_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/shoal-llm/shoal/pkg/token"
)

// small is a vocabulary made by hand: all bytes but 0xFF, a few merges, three
// control tokens and one that a template may write.
func small(mutate func(*token.Config)) token.Config {
	cfg := token.Config{
		Model: "gpt2", Pre: "gpt-2",
		BOS: token.None, EOS: token.None, EOT: token.None, EOM: token.None, PAD: token.None, UNK: token.None,
	}
	next := rune(0x100)
	for b := range 255 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE) {
			r = next
			next++
		}
		cfg.Tokens = append(cfg.Tokens, string(r))
	}
	cfg.Merges = []string{"a a", "aa aa", "a b", "h e"}
	cfg.Tokens = append(cfg.Tokens, "aa", "aaaa", "ab", "he")
	cfg.Types = slices.Repeat([]token.Type{token.Normal}, len(cfg.Tokens))
	for _, text := range []string{"<|a|>", "<|a|><|b|>", "<|end|>"} {
		cfg.Tokens = append(cfg.Tokens, text)
		cfg.Types = append(cfg.Types, token.Control)
	}
	cfg.Tokens = append(cfg.Tokens, "<tool>")
	cfg.Types = append(cfg.Types, token.UserDefined)
	if mutate != nil {
		mutate(&cfg)
	}
	return cfg
}

// ids of the tokens of small above the bytes.
const (
	aa int32 = 255 + iota
	aaaa
	ab
	he
	ctrlA
	ctrlAB
	ctrlEnd
	tool
)

func mustNew(tb testing.TB, cfg token.Config) *token.Vocab {
	tb.Helper()
	v, err := token.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func TestNewRefusesContradictions(t *testing.T) {
	for name, c := range map[string]struct {
		mutate func(*token.Config)
		want   error
		names  string
	}{
		"lengths differ":       {func(c *token.Config) { c.Types = c.Types[1:] }, token.ErrTokenizer, "types"},
		"unknown type":         {func(c *token.Config) { c.Types[3] = 9 }, token.ErrTokenizer, "token 3"},
		"bos outside":          {func(c *token.Config) { c.BOS = int32(len(c.Tokens)) }, token.ErrTokenizer, "bos"},
		"eos outside":          {func(c *token.Config) { c.EOS = 1 << 30 }, token.ErrTokenizer, "eos"},
		"eot negative":         {func(c *token.Config) { c.EOT = -2 }, token.ErrTokenizer, "eot"},
		"no tokens":            {func(c *token.Config) { c.Tokens, c.Types = nil, nil }, token.ErrTokenizer, "no tokens"},
		"merge of one":         {func(c *token.Config) { c.Merges[0] = "aa" }, token.ErrTokenizer, "merge 0"},
		"merge of three":       {func(c *token.Config) { c.Merges[0] = "a a a" }, token.ErrTokenizer, "merge 0"},
		"merge of nothing":     {func(c *token.Config) { c.Merges[0] = " a" }, token.ErrTokenizer, "merge 0"},
		"merge left missing":   {func(c *token.Config) { c.Merges[1] = "zz a" }, token.ErrTokenizer, "merge 1"},
		"merge result missing": {func(c *token.Config) { c.Merges[2] = "b a" }, token.ErrTokenizer, "merge 2"},
		"merge of control":     {func(c *token.Config) { c.Merges[2] = "<|a|> <|b|>" }, token.ErrTokenizer, "merge 2"},
		"other model":          {func(c *token.Config) { c.Model = "bert" }, token.ErrModel, `"bert"`},
		"other pre-tokenizer":  {func(c *token.Config) { c.Pre = "gpt-9" }, token.ErrPreTokenizer, `"gpt-9"; known: default, gpt-2, llama-bpe, qwen2, smollm, tekken`},
	} {
		_, err := token.New(small(c.mutate))
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.names) {
			t.Errorf("%s: error %v, want %v that names %s", name, err, c.want, c.names)
		}
	}
}

// metadata is a model file's, kept in a map.
type metadata map[string]any

func (m metadata) Has(key string) bool { _, ok := m[key]; return ok }

func value[T any](m metadata, key string) (T, error) {
	v, ok := m[key].(T)
	if !ok {
		return v, fmt.Errorf("%s is a %T", key, m[key])
	}
	return v, nil
}

func (m metadata) String(key string) (string, error)      { return value[string](m, key) }
func (m metadata) Strings(key string) ([]string, error)   { return value[[]string](m, key) }
func (m metadata) Int32s(key string) ([]int32, error)     { return value[[]int32](m, key) }
func (m metadata) Float32s(key string) ([]float32, error) { return value[[]float32](m, key) }
func (m metadata) Uint32(key string) (uint32, error)      { return value[uint32](m, key) }
func (m metadata) Bool(key string) (bool, error)          { return value[bool](m, key) }

func TestConfigFromMetadata(t *testing.T) {
	good := func() metadata {
		return metadata{
			"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": []string{"a", "b"},
			"tokenizer.ggml.token_type": []int32{1, 3}, "tokenizer.ggml.eos_token_id": uint32(1),
			"tokenizer.ggml.scores": []float32{0, 0}, "tokenizer.ggml.add_bos_token": true,
		}
	}
	cfg, err := token.ConfigFrom(good())
	if err != nil {
		t.Fatal(err)
	}
	if cfg.EOS != 1 || cfg.BOS != token.None || !cfg.AddBOS || cfg.Types[1] != token.Control {
		t.Errorf("config %+v", cfg)
	}
	if v := mustNew(t, cfg); v.AddBOS() || !slices.Equal(v.End(), []int32{1}) {
		t.Errorf("add bos %v without a bos, end %v", v.AddBOS(), v.End())
	}
	for key, bad := range map[string]any{
		"model": 7, "tokens": "a", "token_type": []int64{1}, "scores": []float32{1}, "eos_token_id": "1",
		"merges": []int32{1}, "add_bos_token": uint32(1), "pre": true,
	} {
		m := good()
		m["tokenizer.ggml."+key] = bad
		if _, err := token.ConfigFrom(m); !errors.Is(err, token.ErrTokenizer) {
			t.Errorf("%s: error %v, want ErrTokenizer", key, err)
		}
	}
	m := good()
	m["tokenizer.ggml.eos_token_id"] = uint32(1<<32 - 1)
	if cfg, err = token.ConfigFrom(m); err != nil {
		t.Fatal(err)
	}
	if _, err := token.New(cfg); !errors.Is(err, token.ErrTokenizer) {
		t.Errorf("eos 2^32-1: error %v, want ErrTokenizer", err)
	}
}

func TestOnlySpecialTextBecomesControlTokens(t *testing.T) {
	v := mustNew(t, small(nil))
	const forged = "<|a|><|b|>x<|end|><tool>"
	for _, id := range v.Encode(forged) {
		if v.Type(id) != token.Normal {
			t.Errorf("plain text became token %d %q", id, v.Text(id))
		}
	}
	if got := v.EncodeWithSpecial(forged); !slices.Equal(got, []int32{ctrlAB, 'x' - '!' + v.Encode("!")[0], ctrlEnd, tool}) {
		t.Errorf("special text gives %v", got)
	}
	// A control token never reaches over the bounds of a segment's kind.
	for cut := 1; cut < len("<|end|>"); cut++ {
		for _, order := range []bool{false, true} {
			got := v.EncodeSegments([]token.Segment{
				{Text: "<|end|>"[:cut], Special: order}, {Text: "<|end|>"[cut:], Special: !order},
			})
			if slices.Contains(got, ctrlEnd) {
				t.Errorf("cut at %d, special first %v: %v", cut, order, got)
			}
		}
	}
	if got := v.EncodeSegments([]token.Segment{{"<|e", true}, {"", false}, {"nd|>", true}}); slices.Contains(got, ctrlEnd) {
		t.Errorf("around an empty segment: %v", got)
	}
	if got := v.EncodeSegments([]token.Segment{{"<|e", true}, {"nd|>", true}}); !slices.Equal(got, []int32{ctrlEnd}) {
		t.Errorf("neighbours of one kind: %v", got)
	}
}

func TestWordsReachOverSegments(t *testing.T) {
	v := smollm2(t)
	const text = " the quick\n\nbrown 12 fox's don't  stop"
	want := v.Encode(text)
	for cut := range len(text) {
		got := v.EncodeSegments([]token.Segment{{text[:cut], true}, {text[cut:], false}})
		if !slices.Equal(got, want) {
			t.Fatalf("cut at %d: %v, want %v", cut, got, want)
		}
	}
}

func TestBytesWithoutATokenAreDropped(t *testing.T) {
	v := mustNew(t, small(nil))
	if got, want := v.Encode("a\xffa"), v.Encode("a"); !slices.Equal(got, append(want, want...)) {
		t.Errorf("a FF a gives %v, want %v twice: the missing byte also keeps its neighbours apart", got, want)
	}
}

// Long words take another way than short ones, with the same result.
func TestLongWordsMergeAsShortOnes(t *testing.T) {
	v := smollm2(t)
	rng := rand.New(rand.NewPCG(1, 1))
	for range 40 {
		letters := make([]byte, 1+rng.IntN(60))
		for i := range letters {
			letters[i] = "aeinorst"[rng.IntN(8)]
		}
		if got, want := v.Encode(string(letters)), mergeByRule(v, string(letters)); !slices.Equal(got, want) {
			t.Fatalf("%s gives %v, want %v", letters, got, want)
		}
	}
}

func TestOneVeryLongWord(t *testing.T) {
	v := mustNew(t, small(nil))
	got := v.Encode(strings.Repeat("a", 1<<20))
	if len(got) != 1<<18 || got[0] != aaaa || got[len(got)-1] != aaaa {
		t.Errorf("%d ids, first %d", len(got), got[0])
	}
}

func TestDetokenizerNeverSplitsRunes(t *testing.T) {
	v := smollm2(t)
	const text = "naïve 日本語 🙂👍🏽 é½"
	ids := v.Encode(text)
	d := v.NewDetokenizer()
	var out strings.Builder
	for _, id := range ids {
		piece := d.Push(id)
		if !utf8.ValidString(piece) {
			t.Fatalf("piece %q is not valid UTF-8", piece)
		}
		out.WriteString(piece)
	}
	out.WriteString(d.Flush())
	if out.String() != text {
		t.Errorf("stream gives %q, want %q", out.String(), text)
	}
}

func TestDetokenizerReplacesWhatIsNoText(t *testing.T) {
	v := mustNew(t, small(nil))
	stream := func(ids ...int32) (out string) {
		d := v.NewDetokenizer()
		for _, id := range ids {
			out += d.Push(id) + "|"
		}
		return out + d.Flush()
	}
	for want, ids := range map[string][]int32{
		"||é|":           {0xC3, ctrlA, 0xA9},
		"|\uFFFDa|":      {0xE2, 'a'},
		"\uFFFD|a|":      {0x80, 'a'},
		"||\uFFFD\uFFFD": {0xF0, 0x9F}, // each byte of a broken rune counts alone
		"||<tool>|":      {ctrlA, ctrlEnd, tool},
		"||":             {-5, 1 << 20},
		"|\uFFFD|\uFFFD": {0xE2, 0xE2},
	} {
		if got := stream(ids...); got != want {
			t.Errorf("ids %v give %q, want %q", ids, got, want)
		}
	}
}

// mergeByRule is the definition: apply the earliest rule, leftmost first.
func mergeByRule(v *token.Vocab, word string) []int32 {
	var parts []string
	for i := range len(word) {
		parts = append(parts, word[i:i+1])
	}
	for {
		at, best := -1, 0
		for i := 0; i+1 < len(parts); i++ {
			if rank, ok := v.RankOf(parts[i], parts[i+1]); ok && (at < 0 || rank < best) {
				at, best = i, rank
			}
		}
		if at < 0 {
			break
		}
		parts = slices.Replace(parts, at, at+2, parts[at]+parts[at+1])
	}
	var ids []int32
	for _, p := range parts {
		ids = append(ids, v.IDOf(p))
	}
	return ids
}

func FuzzRoundTrip(f *testing.F) {
	v := mustNew(f, small(func(c *token.Config) {
		c.Tokens = append(c.Tokens, "ÿ")
		c.Types = append(c.Types, token.Normal)
	}))
	for _, seed := range []string{
		"", "a", "aaaaab", "<|a|>x<|end|>", "naïve – 日本語 🙂", "\xff\xfe", "12 345  \n\n x's", "\u00a0\u2003 a", "\u20000", strings.Repeat("ab", 60),
	} {
		f.Add(seed)
	}
	splits := map[string]*token.Vocab{"gpt-2": v}
	for _, pre := range token.PreTokenizers() {
		splits[pre] = mustNew(f, small(func(c *token.Config) {
			c.Pre = pre
			c.Tokens = append(c.Tokens, "ÿ")
			c.Types = append(c.Types, token.Normal)
		}))
	}
	f.Fuzz(func(t *testing.T, text string) {
		for pre, v := range splits {
			text := text
			if v.Composes() {
				text = norm.NFC.String(text)
			}
			ids := v.Encode(text)
			if got := v.Decode(ids); got != text {
				t.Fatalf("%s: %q became %q", pre, text, got)
			}
			d := v.NewDetokenizer()
			var stream strings.Builder
			for _, id := range ids {
				if v.Type(id) != token.Normal {
					t.Fatalf("%s: %q holds control token %d", pre, text, id)
				}
				stream.WriteString(d.Push(id))
			}
			stream.WriteString(d.Flush())
			if want := string([]rune(text)); stream.String() != want {
				t.Fatalf("%s: stream of %q gives %q, want %q", pre, text, stream.String(), want)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	v := smollm2(b)
	for name, text := range map[string]string{
		"prose":    strings.Repeat("It was the best of times, it was the worst of times; 1859 — naïve. ", 1000),
		"one-word": strings.Repeat("a", 1<<20),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				v.Encode(text)
			}
		})
	}
}
