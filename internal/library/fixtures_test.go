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
		"models/*/tokenizer.model": "sentencepiece tokenizers",
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

// TestFixtureFilesTokenise: the vocabulary of every family's file turns text into
// ids and back, and its chat template compiles.
func TestFixtureFilesTokenise(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(golden.Dir(t), "models", "*", "model-f16.gguf"))
	if err != nil || len(files) < 11 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	const text = "Hello, wörld  of 12 cafés!\n"
	for _, path := range files {
		m, err := Library{}.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		v, err := m.Vocab()
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if got := v.Decode(v.Encode(text)); got != text {
			t.Errorf("%s: %q comes back as %q", path, text, got)
		}
		if _, err := m.Template(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
