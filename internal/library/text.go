package library

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/grammar"
	"github.com/shoal-llm/shoal/pkg/sample"
	"github.com/shoal-llm/shoal/pkg/template"
	"github.com/shoal-llm/shoal/pkg/token"
)

// Vocab makes the model's vocabulary.
func (m *Model) Vocab() (*token.Vocab, error) {
	cfg, err := token.ConfigFrom(m.file.Metadata())
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", m.Name, err)
	}
	v, err := token.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", m.Name, err)
	}
	if v.Len() != m.Spec.Vocab {
		return nil, fmt.Errorf("model %s: %w: %d tokens, the embedding has %d rows", m.Name, token.ErrTokenizer, v.Len(), m.Spec.Vocab)
	}
	return v, nil
}

// Spelling makes the trie of the vocabulary's texts, by which grammars choose
// ids.
func (m *Model) Spelling() (*grammar.Vocabulary, error) {
	v, err := m.Vocab()
	if err != nil {
		return nil, err
	}
	g, err := grammar.NewVocabulary(v.Len(), v.Bytes)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", m.Name, err)
	}
	return g, nil
}

// Template compiles the model's chat template. A model without one gives nil:
// it continues text but holds no conversation.
func (m *Model) Template() (*template.Template, error) {
	const key = "tokenizer.chat_template"
	meta := m.file.Metadata()
	if !meta.Has(key) {
		return nil, nil
	}
	src, err := meta.String(key)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", m.Name, err)
	}
	t, err := template.Compile(src)
	if err != nil {
		return nil, fmt.Errorf("model %s: chat template: %w", m.Name, err)
	}
	return t, nil
}

// Defaults returns the sampling that the file recommends; fields it does not
// name are off.
func (m *Model) Defaults() sample.Spec {
	meta := m.file.Metadata()
	var s sample.Spec
	if v, err := meta.Float32("general.sampling.temp"); err == nil && v >= 0 {
		s.Temperature = v
	}
	if v, err := meta.Float32("general.sampling.top_p"); err == nil && v > 0 && v <= 1 {
		s.TopP = v
	}
	if v, err := meta.Uint32("general.sampling.top_k"); err == nil && v < 1<<20 {
		s.TopK = int32(v)
	}
	return s
}
