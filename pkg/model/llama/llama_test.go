package llama_test

import (
	"testing"

	"github.com/shoal-llm/shoal/pkg/model/modeltest"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

func TestFixtureGoldens(t *testing.T) {
	for _, c := range modeltest.Cases(t) {
		t.Run(c.Name, func(t *testing.T) { modeltest.Goldens(t, c) })
	}
}

func TestFixtureInvariance(t *testing.T) {
	for _, c := range modeltest.Cases(t) {
		t.Run(c.Name, func(t *testing.T) { modeltest.Invariance(t, c, p16.Levels()) })
	}
}

// TestClassHashes holds on every processor: run it there, or under an emulator.
func TestClassHashes(t *testing.T) {
	modeltest.ClassHashes(t, "testdata/class.json", p16.Levels())
}

func TestSmolLM2(t *testing.T) { modeltest.SmolLM2(t) }
