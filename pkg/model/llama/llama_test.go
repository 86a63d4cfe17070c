package llama_test

import (
	"testing"

	"github.com/shoal-llm/shoal/pkg/model/modeltest"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// The window of Mistral, the experts of Mixtral, and the factors of Llama 3.
func TestFixtureModels(t *testing.T) {
	modeltest.Family(t, p16.Levels(), modeltest.Cases(t, "llama", "llama3_rope", "mistral", "mixtral")...)
}

func TestFixtureQuantised(t *testing.T) {
	modeltest.Family(t, p16.Levels(), modeltest.Quantised(t)...)
}

// TestClassHashes holds on every processor: run it there, or under an emulator.
func TestClassHashes(t *testing.T) {
	modeltest.ClassHashes(t, "testdata/class.json", p16.Levels())
}

func TestSmolLM2(t *testing.T) { modeltest.SmolLM2(t) }
