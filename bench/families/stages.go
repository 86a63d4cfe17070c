package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/services/coordinator"
)

// Sizes of the stages whose bytes are compared.
const (
	stagePages, stageSlots, stageRows, stageContext = 32, 4, 64, 512
)

// splitBytes loads mixtures of experts in 2 and 3 stages, and compares what each stage
// holds with what the planner counts for it. The figure is the worst of all stages.
func splitBytes(dir string, about measure.Figure) (out []measure.Figure, err error) {
	for _, name := range []string{"mixtral", "qwen3_moe"} {
		m, err := library.Library{}.Open(filepath.Join(dir, "models", name, "model-f16.gguf"))
		if err != nil {
			return nil, err
		}
		for stages := 2; stages <= 3; stages++ {
			f := about
			f.Name, f.Unit, f.Runs = fmt.Sprintf("bytes_of_%d_stages_%s", stages, name), "held / planned, worst stage", 1
			if f.Value, err = worstStage(m, stages); err != nil {
				return nil, errors.Join(err, m.Close())
			}
			out = append(out, f)
		}
		if err := m.Close(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func worstStage(m *library.Model, stages int) (worst float64, err error) {
	plan, err := coordinator.PlaceModel(m, compute.KVClass{}, stageSlots, stageRows)
	if err != nil {
		return 0, err
	}
	for i := range stages {
		first, end := i*m.Spec.Layers/stages, (i+1)*m.Spec.Layers/stages
		part := model.Part{First: first, End: end, Embed: first == 0, Head: end == m.Spec.Layers}
		held, err := heldBy(m, part)
		if err != nil {
			return 0, err
		}
		ratio := float64(held) / float64(plan.Bytes(part, stagePages, stageRows))
		if worst == 0 || max(ratio, 1/ratio) > max(worst, 1/worst) {
			worst = ratio
		}
	}
	return worst, nil
}

// heldBy loads a part on a backend of its own and returns what it holds.
func heldBy(m *library.Model, part model.Part) (n uint64, err error) {
	be, err := cpu.Open(cpu.Config{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: part, Pages: stagePages, Slots: stageSlots, Rows: stageRows, Context: min(stageContext, m.Spec.Context),
	})
	if err != nil {
		return 0, err
	}
	return st.Used().Total(), st.Close()
}
