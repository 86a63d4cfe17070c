package shard

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/shoal-llm/shoal/pkg/model"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/command"
)

// reserve is weights that a device holds for stages of others, so that it can
// take one over at once. The loader owns it.
type reserve struct {
	digest string
	dev    *device
	part   model.Part
	free   func() error // nil until it is loaded; the device's owner calls it
}

func (r *reserve) same(o *reserve) bool {
	return r.digest == o.digest && r.dev == o.dev && r.part == o.part
}

// reserves gives up the reserves that the plan does not name any more, and
// returns those that are to be loaded. Matrices stay where a new stage may want
// them until the next sweep.
func (s *Shard) reserves(ctx context.Context, plan *pb.Plan) []*reserve {
	var wanted, missing []*reserve
	for _, sp := range plan.GetSpares() {
		if sp.Node == s.deps.Identity.NodeID() {
			wanted = append(wanted, &reserve{digest: string(plan.Model.Digest) + plan.Model.Recipe, dev: s.devices[sp.Device], part: command.PartOf(sp)})
		}
	}
	s.held = slices.DeleteFunc(s.held, func(r *reserve) bool {
		if r.free != nil && slices.ContainsFunc(wanted, r.same) {
			return false
		}
		s.giveUp(ctx, r)
		return true
	})
	for _, r := range wanted {
		if !slices.ContainsFunc(s.held, r.same) {
			missing = append(missing, r)
		}
	}
	return missing
}

// giveUp frees a reserve.
func (s *Shard) giveUp(ctx context.Context, r *reserve) {
	if r.free == nil {
		return
	}
	var err error
	if lost := r.dev.do(ctx, func() { err = r.free() }); lost != nil {
		return
	}
	if err != nil {
		s.deps.Log.Error("free a reserve", "device", r.dev.index, "err", err)
	}
}

// errNewerPlan ends the loading of a reserve: what is to run comes first.
var errNewerPlan = errors.New("there is a newer plan")

func (s *Shard) newerPlan() error {
	if len(s.plans) > 0 {
		return errNewerPlan
	}
	return nil
}

// loadReserve loads the weights of a reserve, and a cache and buffers of the
// least size.
func (s *Shard) loadReserve(ctx context.Context, r *reserve, m *Model) {
	began := time.Now()
	be := r.dev.tenant(ctx, m)
	be.refuse = s.newerPlan
	arena := be.NewArena()
	if _, err := m.Arch.Load(arena, m.Source, m.Spec, r.part, model.Limits{Rows: 1, Logits: 1, Pages: 1, Positions: 1}); err != nil {
		if !errors.Is(err, errNewerPlan) {
			s.deps.Log.Warn("cannot hold a reserve", "device", r.dev.index, "first", r.part.First, "end", r.part.End, "err", err)
		}
		if err := arena.Free(); err != nil {
			s.deps.Log.Error("free a reserve", "device", r.dev.index, "err", err)
		}
		return
	}
	if r.dev.do(ctx, be.settle) != nil {
		return
	}
	r.free = arena.Free
	s.held = append(s.held, r)
	s.deps.Log.Info("holds a reserve", "device", r.dev.index, "first", r.part.First, "end", r.part.End, "took", time.Since(began))
}
