package shard

import (
	"context"
	"errors"
	"fmt"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/store"
	gather "github.com/shoal-llm/shoal/internal/weights"
	"github.com/shoal-llm/shoal/pkg/model"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/command"
)

// adapter is a low-rank adapter of a plan's model.
type adapter struct {
	id     string
	open   *library.Adapter
	stored *store.Model // what of it is in the store; nil: its files are this process's own
}

// openAdapters opens the adapters of a plan for its model, which closes them.
func (s *Shard) openAdapters(ctx context.Context, m *Model, plan *pb.Plan) error {
	if len(plan.Model.Adapters) == 0 {
		return nil
	}
	if m.file == nil || s.deps.Weights == nil {
		return errors.New("open adapters: this node has no way to read them")
	}
	closeModel := m.Close
	m.Close = func() error {
		var errs []error
		for _, a := range m.adapters {
			errs = append(errs, a.open.Close())
		}
		return errors.Join(append(errs, closeModel())...)
	}
	for _, want := range plan.Model.Adapters {
		a, err := s.openAdapter(ctx, m.file, want, plan.Holders)
		if err != nil {
			return fmt.Errorf("open adapter %s: %w", want.Name, err)
		}
		m.adapters = append(m.adapters, a)
	}
	return nil
}

func (s *Shard) openAdapter(ctx context.Context, m *library.Model, want *pb.Adapter, holders []*pb.Holder) (*adapter, error) {
	k := s.deps.Weights
	if path, ok := k.Lent(want.Manifest); ok {
		open, err := library.OpenAdapter(want.Name, path, m)
		return &adapter{id: want.Id, open: open}, err
	}
	st, err := k.Know(want.Manifest)
	if err != nil {
		return nil, err
	}
	bring := func(ctx context.Context, segments []int) error {
		o := s.order(holders, nil)
		o.Segments = segments
		return k.Gather(ctx, st, o, gather.DefaultPatience())
	}
	if err := bring(ctx, gather.Heads(st)); err != nil {
		return nil, err
	}
	open, err := library.OpenAdapterFiles(want.Name, k.Files(ctx, st, bring), m)
	return &adapter{id: want.Id, open: open, stored: st}, err
}

// fetchAdapters brings what the stages need of adapters that are not this process's
// own, and nothing else.
func (s *Shard) fetchAdapters(ctx context.Context, m *Model, plan *pb.Plan, stages []*stage) error {
	for _, a := range m.adapters {
		if a.stored == nil {
			continue
		}
		var needs []library.Range
		for _, st := range stages {
			needs = append(needs, a.open.Needs(m.file, command.PartOf(st.pipe.plan.Stages[st.index]))...)
		}
		o := s.order(plan.Holders, nil)
		o.Segments = gather.Covering(a.stored, needs)
		if err := s.deps.Weights.Gather(ctx, a.stored, o, gather.DefaultPatience()); err != nil {
			return fmt.Errorf("fetch adapter %s: %w", a.open.Name, err)
		}
	}
	return nil
}

// changes are the adapters as stages load them.
func (m *Model) changes() (out []model.Adapter) {
	for _, a := range m.adapters {
		out = append(out, a.open.Model(a.id))
	}
	return out
}
