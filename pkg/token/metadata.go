package token

import "fmt"

// Metadata is what a Config is read from: the typed metadata of a model file.
// The getters fail for a missing key and for a value of another type.
type Metadata interface {
	Has(key string) bool
	String(key string) (string, error)
	Strings(key string) ([]string, error)
	Int32s(key string) ([]int32, error)
	Float32s(key string) ([]float32, error)
	Uint32(key string) (uint32, error)
	Bool(key string) (bool, error)
}

// ConfigFrom reads the keys tokenizer.ggml.* of GGUF. Errors wrap ErrTokenizer.
func ConfigFrom(m Metadata) (Config, error) {
	r := reader{m: m}
	c := Config{
		Model:  read(&r, "model", m.String),
		Tokens: read(&r, "tokens", m.Strings),
		Pre:    optional(&r, "pre", m.String, ""),
		Merges: optional(&r, "merges", m.Strings, nil),
		BOS:    r.id("bos_token_id"),
		EOS:    r.id("eos_token_id"),
		EOT:    r.id("eot_token_id"),
		EOM:    r.id("eom_token_id"),
		PAD:    r.id("padding_token_id"),
		UNK:    r.id("unknown_token_id"),
		AddBOS: optional(&r, "add_bos_token", m.Bool, false),
	}
	c.SpacePrefix = optional(&r, "add_space_prefix", m.Bool, c.Model == "llama" || c.Model == "t5")
	if c.Model == "t5" {
		c.Spaces = optional(&r, "remove_extra_whitespaces", m.Bool, false)
		c.Join = optional(&r, "join_whitespaces", m.Bool, false)
		c.PrefixOnce = optional(&r, "prefix_once", m.Bool, false)
		c.Words = optional(&r, "split_words", m.Bool, false)
		for _, b := range optional(&r, "precompiled_charsmap", m.Int32s, nil) {
			c.Charsmap = append(c.Charsmap, byte(b))
		}
	}
	for _, t := range optional(&r, "token_type", m.Int32s, nil) {
		c.Types = append(c.Types, Type(t))
	}
	c.Scores = optional(&r, "scores", m.Float32s, nil)
	if r.err == nil && len(c.Scores) != 0 && len(c.Scores) != len(c.Tokens) {
		r.err = fmt.Errorf("%w: %d tokens but %d scores", ErrTokenizer, len(c.Tokens), len(c.Scores))
	}
	return c, r.err
}

// reader keeps the first error.
type reader struct {
	m   Metadata
	err error
}

const keyPrefix = "tokenizer.ggml."

func read[T any](r *reader, name string, get func(string) (T, error)) T {
	v, err := get(keyPrefix + name)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%w: %w", ErrTokenizer, err)
	}
	return v
}

func optional[T any](r *reader, name string, get func(string) (T, error), missing T) T {
	if !r.m.Has(keyPrefix + name) {
		return missing
	}
	return read(r, name, get)
}

// id reads the id of a special token. Ids that do not fit become the largest
// int32, which no vocabulary has.
func (r *reader) id(name string) int32 {
	const largest = 1<<31 - 1
	if !r.m.Has(keyPrefix + name) {
		return None
	}
	return int32(min(read(r, name, r.m.Uint32), largest))
}
