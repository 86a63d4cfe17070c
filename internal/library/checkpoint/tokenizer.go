package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/shoal-llm/shoal/pkg/token"
)

const tokens = "tokenizer.ggml."

// tokenizer is tokenizer.json.
type tokenizer struct {
	Added []struct {
		ID      int    `json:"id"`
		Content string `json:"content"`
		Special bool   `json:"special"`
	} `json:"added_tokens"`
	Normalizer json.RawMessage `json:"normalizer"`
	Split      json.RawMessage `json:"pre_tokenizer"`
	Post       json.RawMessage `json:"post_processor"`
	Model      struct {
		Type         string      `json:"type"`
		Unknown      *string     `json:"unk_token"`
		ByteFallback bool        `json:"byte_fallback"`
		Vocab        vocabulary  `json:"vocab"`
		UnknownID    *int        `json:"unk_id"` // of Unigram
		Merges       []mergePair `json:"merges"`
	} `json:"model"`
}

// mergePair is a pair of tokens, written "a b" or ["a", "b"].
type mergePair [2]string

// UnmarshalJSON reads either spelling.
func (p *mergePair) UnmarshalJSON(text []byte) error {
	if text[0] == '[' {
		return json.Unmarshal(text, (*[2]string)(p))
	}
	var line string
	if err := json.Unmarshal(text, &line); err != nil {
		return err
	}
	left, right, ok := strings.Cut(line, " ")
	if !ok {
		return fmt.Errorf("merge %.64q is no pair", line)
	}
	*p = mergePair{left, right}
	return nil
}

// settings is tokenizer_config.json.
type settings struct {
	Template json.RawMessage `json:"chat_template"`
	AddBOS   *bool           `json:"add_bos_token"`
	BOS      named           `json:"bos_token"`
	EOS      named           `json:"eos_token"`
	PAD      named           `json:"pad_token"`
	UNK      named           `json:"unk_token"`
}

// named is the text of a token, written as such or as an object.
type named string

// UnmarshalJSON reads either spelling, or null.
func (n *named) UnmarshalJSON(text []byte) error {
	if text[0] != '{' {
		return json.Unmarshal(text, (*string)(n))
	}
	var object struct {
		Content string `json:"content"`
	}
	err := json.Unmarshal(text, &object)
	*n = named(object.Content)
	return err
}

// generation is generation_config.json.
type generation struct {
	EOS         ids      `json:"eos_token_id"`
	Temperature *float64 `json:"temperature"`
	TopP        *float64 `json:"top_p"`
	TopK        *uint64  `json:"top_k"`
}

// texts writes tokenizer, chat template and sampling under the keys of GGUF. A
// folder without tokenizer.json has none: such a model runs on ids alone.
func (r reader) texts(cfg *config, m Metadata) error {
	var g generation
	if _, err := r.optional("generation_config.json", maxConfigBytes, &g); err != nil {
		return err
	}
	g.describe(m)
	var s settings
	if _, err := r.optional("tokenizer_config.json", maxTokenizerBytes, &s); err != nil {
		return err
	}
	if err := r.template(s, m); err != nil {
		return err
	}
	var t tokenizer
	found, err := r.optional("tokenizer.json", maxTokenizerBytes, &t)
	if err != nil || !found {
		return err
	}
	if err := t.describe(int(min(cfg.Vocab, maxVocab)), m); err != nil {
		return fmt.Errorf("read tokenizer.json: %w", err)
	}
	return t.special(cfg, s, g, m)
}

// maxVocab bounds what config.json may claim.
const maxVocab = 1 << 22

func (g generation) describe(m Metadata) {
	const key = "general.sampling."
	if g.Temperature != nil {
		m[key+"temp"] = *g.Temperature
	}
	if g.TopP != nil {
		m[key+"top_p"] = *g.TopP
	}
	if g.TopK != nil {
		m[key+"top_k"] = *g.TopK
	}
}

// template finds the chat template: a file of its own, a text, or the default of
// several.
func (r reader) template(s settings, m Metadata) error {
	const key = "tokenizer.chat_template"
	text, err := r("chat_template.jinja", maxConfigBytes)
	if err == nil {
		m[key] = string(text)
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(s.Template) == 0 || string(s.Template) == "null" {
		return nil
	}
	var one string
	if json.Unmarshal(s.Template, &one) == nil {
		m[key] = one
		return nil
	}
	var several []struct{ Name, Template string }
	if err := json.Unmarshal(s.Template, &several); err != nil {
		return fmt.Errorf("read chat_template of tokenizer_config.json: %w", err)
	}
	for _, t := range several {
		if t.Name == "default" {
			m[key] = t.Template
		}
	}
	return nil
}

// describe writes the vocabulary. Ids up to size that no token has are unused.
func (t *tokenizer) describe(size int, m Metadata) error {
	if t.Model.Type == "Unigram" {
		return t.describeUnigram(size, m)
	}
	if t.Model.Type != "BPE" && t.Model.Type != "" || t.Model.Vocab.list != nil {
		return fmt.Errorf("%w: %.32q; BPE and Unigram are read", token.ErrModel, t.Model.Type)
	}
	texts, types, err := t.list(size)
	if err != nil {
		return err
	}
	m[tokens+"tokens"], m[tokens+"token_type"] = texts, types
	if strings.Contains(string(t.Split), `"ByteLevel"`) {
		rule, err := t.rule()
		if err != nil {
			return err
		}
		merges := make([]string, len(t.Model.Merges))
		for i, p := range t.Model.Merges {
			merges[i] = p[0] + " " + p[1]
		}
		m[tokens+"model"], m[tokens+"pre"], m[tokens+"merges"] = "gpt2", rule, merges
		return nil
	}
	if !t.Model.ByteFallback {
		return fmt.Errorf("%w: neither of bytes nor with bytes to fall back to", token.ErrModel)
	}
	m[tokens+"model"], m[tokens+"scores"] = "llama", t.scores(texts)
	m[tokens+"add_space_prefix"] = strings.Contains(string(t.Normalizer), `"Prepend"`) || strings.Contains(string(t.Split), `"Metaspace"`)
	return nil
}

// list returns the texts and types of all ids.
func (t *tokenizer) list(size int) ([]string, []int32, error) {
	texts, types := make([]string, size), slices.Repeat([]int32{int32(token.Unused)}, size)
	put := func(id int, text string, kind token.Type) error {
		if id < 0 || id >= size {
			return fmt.Errorf("%w: token %.32q has the id %d in a vocabulary of %d", token.ErrTokenizer, text, id, size)
		}
		texts[id], types[id] = text, int32(kind)
		return nil
	}
	bytes := t.Model.ByteFallback
	for text, id := range t.Model.Vocab.ids {
		if id >= 0 && id < size && types[id] != int32(token.Unused) {
			return nil, nil, fmt.Errorf("%w: id %d has two tokens", token.ErrTokenizer, id)
		}
		kind := token.Normal
		switch {
		case bytes && len(text) == len("<0x00>") && strings.HasPrefix(text, "<0x") && text[5] == '>':
			kind = token.Byte
		case t.Model.Unknown != nil && text == *t.Model.Unknown:
			kind = token.Unknown
		}
		if err := put(id, text, kind); err != nil {
			return nil, nil, err
		}
	}
	for _, a := range t.Added {
		kind := token.UserDefined
		if a.Special {
			kind = token.Control
		}
		if err := put(a.ID, a.Content, kind); err != nil {
			return nil, nil, err
		}
	}
	for id := range texts {
		if types[id] == int32(token.Unused) {
			texts[id] = fmt.Sprintf("[PAD%d]", id)
		}
	}
	return texts, types, nil
}

// scores gives pieces the order in which they are merged: a piece's score is less
// the later the first merge is that makes it.
func (t *tokenizer) scores(texts []string) []float32 {
	rank := make(map[string]int, len(t.Model.Merges))
	for i, p := range t.Model.Merges {
		if _, ok := rank[p[0]+p[1]]; !ok {
			rank[p[0]+p[1]] = i
		}
	}
	out := make([]float32, len(texts))
	for id, text := range texts {
		r, ok := rank[text]
		if !ok {
			r = len(t.Model.Merges)
		}
		out[id] = -float32(r)
	}
	return out
}

// rules are the patterns that split text, which files spell out and GGUF names.
var rules = map[string]string{
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`:                                                                                                 "llama-bpe",
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`:                                                                                                      "qwen2",
	`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`: "tekken",
}

// splitter is a step of pre_tokenizer.
type splitter struct {
	Type    string     `json:"type"`
	Steps   []splitter `json:"pretokenizers"`
	Pattern struct{ Regex, String string }
	UseRule *bool `json:"use_regex"`
	Digits  *bool `json:"individual_digits"`
}

// rule names the rule that splits text into words. Patterns are looked up, never
// compiled.
func (t *tokenizer) rule() (string, error) {
	var s splitter
	if err := json.Unmarshal(t.Split, &s); err != nil {
		return "", fmt.Errorf("%w: %w", token.ErrPreTokenizer, err)
	}
	steps := s.Steps
	if s.Type != "Sequence" {
		steps = []splitter{s}
	}
	name, ok := "gpt-2", true
	for i, step := range steps {
		switch {
		case step.Type == "Split" && i == 0:
			name, ok = rules[step.Pattern.Regex]
		case step.Type == "Digits" && i == 0 && step.Digits != nil && *step.Digits:
			name = "smollm"
		case step.Type == "ByteLevel" && i == len(steps)-1:
		default:
			ok = false
		}
		if !ok {
			return "", fmt.Errorf("%w: %.200s", token.ErrPreTokenizer, t.Split)
		}
	}
	composed := strings.Contains(string(t.Normalizer), `"NFC"`)
	if composed != (name == "qwen2") {
		return "", fmt.Errorf("%w: %s with the normalizer %.100s", token.ErrPreTokenizer, name, t.Normalizer)
	}
	return name, nil
}

// special writes the ids of special tokens: by the texts of tokenizer_config.json,
// else by config.json. Further ids that end an answer come from
// generation_config.json.
func (t *tokenizer) special(cfg *config, s settings, g generation, m Metadata) error {
	texts, err := m.Strings(tokens + "tokens")
	if err != nil {
		return err
	}
	for _, one := range []struct {
		key  string
		text named
		ids  ids
	}{{"bos", s.BOS, cfg.BOS}, {"eos", s.EOS, append(cfg.EOS, g.EOS...)}, {"padding", s.PAD, cfg.PAD}, {"unknown", s.UNK, nil}} {
		if id := slices.Index(texts, string(one.text)); one.text != "" && id >= 0 {
			m[tokens+one.key+"_token_id"] = uint64(id)
		} else if len(one.ids) > 0 {
			m[tokens+one.key+"_token_id"] = one.ids[0]
		}
	}
	extra := []string{"eot_token_id", "eom_token_id"}
	eos, hasEOS := m[tokens+"eos_token_id"].(uint64)
	for _, id := range append(slices.Clone(g.EOS), cfg.EOS...) {
		if hasEOS && id == eos || len(extra) == 0 || len(extra) == 1 && m[tokens+"eot_token_id"] == id {
			continue
		}
		m[tokens+extra[0]], extra = id, extra[1:]
	}
	m[tokens+"add_bos_token"] = t.addsBOS(s, texts, m)
	return nil
}

// addsBOS reports whether raw prompts begin with BOS.
func (t *tokenizer) addsBOS(s settings, texts []string, m Metadata) bool {
	if s.AddBOS != nil {
		return *s.AddBOS
	}
	id, ok := m[tokens+"bos_token_id"].(uint64)
	if !ok || id >= uint64(len(texts)) {
		return false
	}
	var post struct {
		Steps []struct {
			Single []json.RawMessage `json:"single"`
		} `json:"processors"`
		Single []json.RawMessage `json:"single"`
	}
	if len(t.Post) == 0 || json.Unmarshal(t.Post, &post) != nil {
		return false
	}
	for _, step := range post.Steps {
		post.Single = append(post.Single, step.Single...)
	}
	return len(post.Single) > 0 && firstIs(post.Single[0], texts[id])
}

// firstIs reports whether the first piece of a template is that special token.
func firstIs(piece json.RawMessage, text string) bool {
	var p struct {
		Special struct {
			ID string `json:"id"`
		} `json:"SpecialToken"`
	}
	return json.Unmarshal(piece, &p) == nil && p.Special.ID == text
}

// Tokenizer reads a tokenizer.json by itself: its vocabulary under the keys of GGUF,
// without the ids of special tokens, which other files name.
func Tokenizer(text []byte) (Metadata, error) {
	var t tokenizer
	if err := json.Unmarshal(text, &t); err != nil {
		return nil, fmt.Errorf("read tokenizer.json: %w", err)
	}
	size := 0
	for _, id := range t.Model.Vocab.ids {
		size = max(size, id+1)
	}
	for _, a := range t.Added {
		size = max(size, a.ID+1)
	}
	m := Metadata{}
	if err := t.describe(min(size, maxVocab), m); err != nil {
		return nil, fmt.Errorf("read tokenizer.json: %w", err)
	}
	return m, nil
}
