package checkpoint

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/shoal-llm/shoal/pkg/token"
)

// vocabulary is the tokens of a model: ids by text, or of Unigram a list of texts
// with scores, by id.
type vocabulary struct {
	ids  map[string]int
	list []scored
}

type scored struct {
	text  string
	score float64
}

// UnmarshalJSON reads [text, score].
func (s *scored) UnmarshalJSON(data []byte) error {
	var pair [2]json.RawMessage
	if err := json.Unmarshal(data, &pair); err != nil {
		return err
	}
	if err := json.Unmarshal(pair[0], &s.text); err != nil {
		return err
	}
	return json.Unmarshal(pair[1], &s.score)
}

// UnmarshalJSON reads either kind.
func (v *vocabulary) UnmarshalJSON(data []byte) error {
	if data[0] != '[' {
		return json.Unmarshal(data, &v.ids)
	}
	if err := json.Unmarshal(data, &v.list); err != nil {
		return err
	}
	v.ids = make(map[string]int, len(v.list))
	for id, s := range v.list {
		if _, twice := v.ids[s.text]; !twice {
			v.ids[s.text] = id
		}
	}
	return nil
}

// describeUnigram writes a vocabulary of SentencePiece's unigram kind.
func (t *tokenizer) describeUnigram(size int, m Metadata) error {
	if id := t.Model.UnknownID; id != nil && *id >= 0 && *id < len(t.Model.Vocab.list) {
		t.Model.Unknown = &t.Model.Vocab.list[*id].text
		m[tokens+"unknown_token_id"] = uint64(*id)
	}
	texts, types, err := t.list(size)
	if err != nil {
		return err
	}
	scores := make([]float32, len(texts))
	for id, s := range t.Model.Vocab.list {
		scores[id] = float32(s.score)
	}
	m[tokens+"model"], m[tokens+"tokens"], m[tokens+"token_type"], m[tokens+"scores"] = "t5", texts, types, scores
	m[tokens+"add_space_prefix"] = false
	if err := t.unigramRules(t.Normalizer, m); err != nil {
		return err
	}
	return t.unigramSplit(t.Split, m)
}

// unigramStep is a step of normalizer or pre_tokenizer.
type unigramStep struct {
	Type        string            `json:"type"`
	Normalizers []json.RawMessage `json:"normalizers"`
	Splitters   []json.RawMessage `json:"pretokenizers"`
	Charsmap    *string           `json:"precompiled_charsmap"`
	Pattern     struct{ Regex, String string }
	Content     string `json:"content"`
	Prepend     string `json:"prepend"`
	Replacement string `json:"replacement"`
	Scheme      string `json:"prepend_scheme"`
	AddPrefix   *bool  `json:"add_prefix_space"` // of older files
	Split       *bool  `json:"split"`
	Left        bool   `json:"strip_left"`
	Right       bool   `json:"strip_right"`
}

const spaceMark = "▁"

// readStep reads a step; false is none.
func readStep(text json.RawMessage) (s unigramStep, ok bool, err error) {
	if len(text) == 0 || string(text) == "null" {
		return s, false, nil
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, false, fmt.Errorf("%w: %w", token.ErrTokenizer, err)
	}
	return s, true, nil
}

// unigramRules writes how text is rewritten before it is cut into tokens.
func (t *tokenizer) unigramRules(text json.RawMessage, m Metadata) error {
	s, ok, err := readStep(text)
	if err != nil || !ok {
		return err
	}
	switch {
	case s.Type == "Sequence":
		for _, step := range s.Normalizers {
			if err := t.unigramRules(step, m); err != nil {
				return err
			}
		}
		return nil
	case s.Type == "Precompiled":
		if s.Charsmap == nil || *s.Charsmap == "" {
			return nil
		}
		rules, err := base64.StdEncoding.DecodeString(*s.Charsmap)
		if err != nil {
			return fmt.Errorf("%w: precompiled_charsmap: %w", token.ErrTokenizer, err)
		}
		values := make([]int32, len(rules))
		for i, b := range rules {
			values[i] = int32(b)
		}
		m[tokens+"precompiled_charsmap"] = values
		return nil
	case s.Type == "Replace" && s.Pattern.Regex == " {2,}" && (s.Content == " " || s.Content == spaceMark):
		m[tokens+"join_whitespaces"] = true
		return nil
	case s.Type == "Replace" && s.Pattern.String == " " && s.Content == spaceMark:
		return nil
	case s.Type == "Prepend" && s.Prepend == spaceMark:
		m[tokens+"add_space_prefix"] = true
		return nil
	case s.Type == "Strip" && s.Left && s.Right:
		m[tokens+"remove_extra_whitespaces"] = true
		return nil
	}
	return fmt.Errorf("%w: unigrams with the normalizer %.200s", token.ErrModel, text)
}

// unigramSplit writes how text is split into words.
func (t *tokenizer) unigramSplit(text json.RawMessage, m Metadata) error {
	s, ok, err := readStep(text)
	if err != nil || !ok {
		return err
	}
	switch {
	case s.Type == "Sequence" && len(s.Splitters) == 1:
		return t.unigramSplit(s.Splitters[0], m)
	case s.Type == "Metaspace" && s.Replacement == spaceMark:
		m[tokens+"add_space_prefix"] = s.Scheme == "always" || s.Scheme == "first" || s.Scheme == "" && (s.AddPrefix == nil || *s.AddPrefix)
		m[tokens+"prefix_once"] = true
		m[tokens+"split_words"] = s.Split == nil || *s.Split
		return nil
	}
	return fmt.Errorf("%w: unigrams with the pre_tokenizer %.200s", token.ErrPreTokenizer, text)
}
