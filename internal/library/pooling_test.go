package library_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/frame"
)

// TestPoolingOfAFolder: sentence-transformers say how embeddings are made; layers that
// they put behind the model are refused.
func TestPoolingOfAFolder(t *testing.T) {
	open := func(files map[string]string) (*library.Model, error) {
		dir := t.TempDir()
		from := filepath.Join(golden.Dir(t), "models", "qwen3")
		for _, name := range []string{"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} {
			data, err := os.ReadFile(filepath.Join(from, name))
			if err != nil {
				t.Fatal(err)
			}
			files[name] = string(data)
		}
		for name, text := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		m, err := library.Library{}.Open(dir)
		if err == nil {
			t.Cleanup(func() { m.Close() })
		}
		return m, err
	}
	const file = "1_Pooling/config.json"
	for text, want := range map[string]library.Pooling{
		"": {Kind: frame.PoolingMean},
		`{"pooling_mode_cls_token":false,"pooling_mode_mean_tokens":true}`: {Kind: frame.PoolingMean},
		`{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false}`: {Kind: frame.PoolingFirst},
		`{"word_embedding_dimension":64,"pooling_mode_lasttoken":true}`:    {Kind: frame.PoolingLast},
		`{"pooling_mode_max_tokens":true}`:                                 {Refused: "of a kind with the number 255"},
		`{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":true}`:  {Refused: "of a kind with the number 255"},
	} {
		files := map[string]string{}
		if text != "" {
			files[file] = text
		}
		m, err := open(files)
		if err != nil || m.Pooling() != want {
			t.Errorf("%s: %v, want %v: %v", text, m, want, err)
		}
	}
	_, err := open(map[string]string{"modules.json": `[{"type":"sentence_transformers.models.Transformer"},{"type":"sentence_transformers.models.Dense"}]`})
	if err == nil || !strings.Contains(err.Error(), "Dense") {
		t.Errorf("error %v", err)
	}
}
