package library

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
)

// TestFixtureContainers names the parts of the reference data that no test reads
// because what they check is not built.
func TestFixtureContainers(t *testing.T) {
	for part, what := range map[string]string{
		"models/*/model*.safetensors": "safetensors files",
		"models/*/tokenizer.model":    "sentencepiece tokenizers",
		"llava/golden.json":           "pictures",
	} {
		files, err := filepath.Glob(filepath.Join(golden.Dir(t), part))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if info, err := os.Stat(path); err != nil || info.Size() == 0 {
				t.Errorf("%s is empty: %v", path, err)
			}
		}
		if len(files) > 0 {
			t.Run(what, func(t *testing.T) { t.Skipf("not built yet: %s (%d files)", what, len(files)) })
		}
	}
}
