// Package archs lists the architectures this build can run.
package archs

import (
	"fmt"
	"strings"

	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/model/gemma2"
	"github.com/shoal-llm/shoal/pkg/model/gemma3"
	"github.com/shoal-llm/shoal/pkg/model/llama"
	"github.com/shoal-llm/shoal/pkg/model/phi3"
	"github.com/shoal-llm/shoal/pkg/model/qwen2"
	"github.com/shoal-llm/shoal/pkg/model/qwen3"
	"github.com/shoal-llm/shoal/pkg/model/qwen3moe"
)

// All returns every architecture.
func All() []model.Arch {
	return []model.Arch{
		gemma2.Arch,
		gemma3.Arch,
		llama.Arch,
		phi3.Arch,
		qwen2.Arch,
		qwen3.Arch,
		qwen3moe.Arch,
	}
}

// Find returns the architecture that a file names, or an error that wraps
// model.ErrArch and lists what there is.
func Find(meta model.Meta) (model.Arch, error) {
	name, ok := meta.String("general.architecture")
	if !ok {
		return model.Arch{}, fmt.Errorf("%w: the file does not name one (general.architecture)", model.ErrArch)
	}
	var known []string
	for _, a := range All() {
		if a.Name == name {
			return a, nil
		}
		known = append(known, a.Name)
	}
	return model.Arch{}, fmt.Errorf("%w %q is not supported; this build runs %s", model.ErrArch, name, strings.Join(known, ", "))
}
