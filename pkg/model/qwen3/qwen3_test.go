package qwen3_test

import (
	"testing"

	"github.com/shoal-llm/shoal/pkg/model/modeltest"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

func TestFixtureModels(t *testing.T) {
	modeltest.Family(t, p16.Levels(), modeltest.Cases(t, "qwen3", "qwen3_yarn")...)
}
