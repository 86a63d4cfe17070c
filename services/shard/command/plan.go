package command

import (
	"errors"
	"fmt"

	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

const (
	maxPipelines = 64
	maxSpares    = 1 << 12
	maxAdapters  = 64
	maxLanes     = 1 << 10
	maxPages     = 1 << 24
	maxRecipe    = 1 << 20
)

// check refuses a plan, whole, whose pipelines do not cover the model once
// and in order, or that no shard could carry out.
func check(p *pb.Plan) error {
	switch {
	case p.GetModel().GetName() == "":
		return errors.New("a plan without a model")
	case len(p.Model.Digest) != 32:
		return fmt.Errorf("digest of %d bytes", len(p.Model.Digest))
	case len(p.Model.Recipe) > maxRecipe:
		return fmt.Errorf("a recipe of %d bytes", len(p.Model.Recipe))
	case KVOf(p.Model).Validate() != nil:
		return KVOf(p.Model).Validate()
	case len(p.Model.Adapters) > maxAdapters:
		return fmt.Errorf("%d adapters", len(p.Model.Adapters))
	case len(p.Pipelines) == 0 || len(p.Pipelines) > maxPipelines:
		return fmt.Errorf("%d pipelines", len(p.Pipelines))
	}
	for i, a := range p.Model.Adapters {
		if a.GetName() == "" || a.GetId() == "" || len(a.Id) > wire.MaxName || len(a.Manifest) == 0 {
			return fmt.Errorf("adapter %d has no name, no manifest or an ID of %d bytes", i, len(a.GetId()))
		}
	}
	seen := map[uint32]bool{}
	for _, pl := range p.Pipelines {
		if seen[pl.GetId()] {
			return fmt.Errorf("pipeline %d is there twice", pl.GetId())
		}
		seen[pl.GetId()] = true
		if pl.GetEpoch() > p.Epoch {
			return fmt.Errorf("pipeline %d is of epoch %d", pl.GetId(), pl.GetEpoch())
		}
		if err := checkPipeline(pl, p.Model); err != nil {
			return fmt.Errorf("pipeline %d: %w", pl.GetId(), err)
		}
	}
	if len(p.Spares) > maxSpares {
		return fmt.Errorf("%d spares", len(p.Spares))
	}
	for i, st := range p.Spares {
		if err := PartOf(st).Check(int(p.Model.Layers)); err != nil {
			return fmt.Errorf("spare %d: %w", i, err)
		}
	}
	return nil
}

func checkPipeline(pl *pb.Pipeline, m *pb.Model) error {
	for _, f := range []struct {
		name  string
		value uint32
		most  uint32
	}{
		{"stages", uint32(len(pl.GetStages())), wire.MaxStages}, {"pages", pl.GetPages(), maxPages},
		{"slots", pl.GetSlots(), frame.MaxSlots}, {"rows", pl.GetRows(), frame.MaxRows},
		{"lanes", pl.GetLanes(), maxLanes}, {"positions of context", pl.GetContext(), wire.MaxPositions},
	} {
		if f.value < 1 || f.value > f.most {
			return fmt.Errorf("%d %s, want 1 to %d", f.value, f.name, f.most)
		}
	}
	next := uint32(0)
	for i, st := range pl.Stages {
		if st.GetFirst() != next {
			return fmt.Errorf("stage %d begins with layer %d, expected %d", i, st.GetFirst(), next)
		}
		if err := PartOf(st).Check(int(m.Layers)); err != nil {
			return fmt.Errorf("stage %d: %w", i, err)
		}
		if st.Node == "" || st.Address == "" {
			return fmt.Errorf("stage %d is nowhere", i)
		}
		next = st.End
	}
	if next != m.Layers {
		return fmt.Errorf("layers from %d on are missing", next)
	}
	return nil
}

// KVOf is how the plan wants keys and values stored.
func KVOf(m *pb.Model) compute.KVClass {
	return compute.KVClass{
		Bits: int(m.GetKvBits()), Group: int(m.GetKvGroup()),
		Recent: int(m.GetKvRecent()), Upper: int(m.GetKvUpper()), Far: int(m.GetKvFar()),
		Ratio: int(m.GetKvRatio()), Older: int(m.GetKvOlder()),
	}
}

// PartOf is the part of the model that a stage holds.
func PartOf(s *pb.Stage) model.Part {
	return model.Part{First: int(s.First), End: int(s.End), Embed: s.Embed, Head: s.Head}
}
