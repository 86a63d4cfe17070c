package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/model"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/command"
)

// reportEvery is how often progress of loading is told at most.
const reportEvery = 100 * time.Millisecond

// loadAll keeps what is loaded in step with the plan in force, until ctx ends.
func (s *Shard) loadAll(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.plans:
			if err := s.load(ctx); err != nil {
				return err
			}
		}
	}
}

// load gives up the stages of pipelines that have ended, loads those that the
// plan has in addition, and then what it holds in reserve. Weights that stay or
// move between stages of a device are not loaded again. An error says that a
// device is lost.
func (s *Shard) load(ctx context.Context) error {
	for _, d := range s.devices {
		if d.clear(ctx) != nil {
			return nil
		}
	}
	plan, pipelines := s.control.wanted()
	if !slices.ContainsFunc(pipelines, func(p *pipeline) bool { return p.stages[0] != nil }) {
		if err := s.sight.close(); err != nil {
			s.deps.Log.Warn("close the vision encoder", "err", err)
		}
	}
	stages := unloaded(pipelines)
	reserves := s.reserves(ctx, plan)
	var lost error
	if len(stages)+len(reserves) > 0 {
		s.loading.Store(true)
		lost = s.loadFrom(ctx, plan, stages, reserves)
		s.loading.Store(false)
	}
	for _, d := range s.devices {
		if d.do(ctx, d.sweep) != nil {
			return nil
		}
	}
	return lost
}

// unloaded returns this node's stages that nobody has begun to load.
func unloaded(pipelines []*pipeline) []*stage {
	var out []*stage
	for _, p := range pipelines {
		for i := range p.plan.Stages {
			if st := p.stages[i]; st != nil && !st.begun {
				st.begun = true
				out = append(out, st)
			}
		}
	}
	return out
}

// loadFrom loads stages and reserves of the model of a plan.
func (s *Shard) loadFrom(ctx context.Context, plan *pb.Plan, stages []*stage, reserves []*reserve) error {
	model := plan.Model
	for _, st := range stages {
		s.control.report(st.state(pb.LoadState_LOAD_STATE_LOADING))
	}
	m, err := s.openModel(ctx, model, plan.Holders)
	if err == nil {
		err = s.openAdapters(ctx, m, plan)
		if err == nil {
			err = s.fetchStages(ctx, m, plan, stages)
		}
		if err == nil {
			err = s.fetchAdapters(ctx, m, plan, stages)
		}
		if err == nil {
			err = s.verifyFirst(ctx, m, plan, stages)
		}
		err = m.closeOn(err)
	}
	var draft *Model
	if err == nil {
		draft, err = s.openDraft(ctx, plan, stages)
		err = m.closeOn(err)
	}
	if err != nil {
		for _, st := range stages {
			s.fail(st, err)
		}
		if len(reserves) > 0 {
			s.deps.Log.Warn("cannot hold reserves", "model", model.Name, "reserves", len(reserves), "err", err)
		}
		return nil
	}
	var lost error
	for _, st := range stages {
		if err := s.loadStage(ctx, st, m, draft); err != nil {
			s.fail(st, err)
			if errors.Is(err, compute.ErrLost) {
				lost = err
			}
		}
	}
	for _, r := range reserves {
		if s.newerPlan() != nil {
			break
		}
		if err := s.fetchReserve(ctx, m, plan, r); err != nil {
			s.deps.Log.Warn("cannot hold a reserve", "device", r.dev.index, "first", r.part.First, "end", r.part.End, "err", err)
			break
		}
		s.loadReserve(ctx, r, m)
	}
	s.verifyLater(m, plan)
	for _, opened := range []*Model{m, draft} {
		if opened == nil {
			continue
		}
		if err := opened.Close(); err != nil {
			s.deps.Log.Warn("close model", "model", model.Name, "err", err)
		}
	}
	return lost
}

// openModel opens a model and holds it against what the plan says of it. Where this
// node has no such file, what is needed of it is brought from the holders or from its
// origin.
func (s *Shard) openModel(ctx context.Context, want *pb.Model, holders []*pb.Holder) (*Model, error) {
	m, err := s.deps.Open(want.Name)
	if len(want.Manifest) > 0 && s.deps.Weights != nil && (err != nil || !slices.Equal(m.File[:], want.Digest)) {
		if err == nil {
			err = m.Close()
			s.deps.Log.Info("this node has another file of that name, which is left alone", "model", want.Name, "err", err)
		}
		m, err = s.openStored(ctx, want, holders)
	}
	if err != nil {
		return nil, fmt.Errorf("open model %s: %w", want.Name, err)
	}
	sp := m.Spec
	switch {
	case !slices.Equal(m.File[:], want.Digest):
		err = fmt.Errorf("model %s on this node is another file than the coordinator's: digest %x, the plan says %x", want.Name, m.File[:8], want.Digest[:8])
	case sp.Layers != int(want.Layers) || sp.Hidden != int(want.Hidden) || sp.Vocab != int(want.Vocab):
		err = fmt.Errorf("model %s has %d layers of width %d and %d ids, the plan says %d, %d and %d",
			want.Name, sp.Layers, sp.Hidden, sp.Vocab, want.Layers, want.Hidden, want.Vocab)
	}
	if err == nil {
		m, err = m.round(want.GetRecipe())
	}
	m.KV = command.KVOf(want)
	if err = errors.Join(err, sp.CheckKV(m.KV)); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// loadStage loads one stage, a matrix at a time between the steps of others, and the
// draft model beside it, where there is one and the pipeline begins here.
func (s *Shard) loadStage(ctx context.Context, st *stage, m, draft *Model) error {
	if err := st.pipe.fuse.reason(); err != nil {
		return err
	}
	pl, part := st.pipe.plan, command.PartOf(st.pipe.plan.Stages[st.index])
	total := m.Bytes(part)
	cfg := engine.Config{
		Epoch: st.pipe.epoch, Pipeline: pl.Id, Stage: uint32(st.index), Part: part,
		Pages: int(pl.Pages), Slots: int(pl.Slots), Rows: int(pl.Rows), Context: int(pl.Context), KV: m.KV, Adapters: m.changes(),
	}
	if part.Head && m.Spelling != nil {
		v, err := m.Spelling()
		if err != nil {
			s.deps.Log.Warn("answers cannot be constrained", "model", st.pipe.model, "err", err)
		}
		cfg.Vocabulary = v
	}
	weights := m.Source
	if m.Ahead != nil {
		ahead, end := m.Ahead(part)
		defer end()
		weights = ahead
	}
	src := &counted{Source: weights, report: func(done uint64) {
		state := st.state(pb.LoadState_LOAD_STATE_LOADING)
		state.DoneBytes, state.TotalBytes = min(done, total), total
		s.control.report(state)
	}}
	began := time.Now()
	be := st.dev.tenant(ctx, m)
	be.refuse = st.pipe.fuse.reason
	golden := expect(st.dev, m, part)
	e, err := s.deps.Load(be, m.Arch, src, m.Spec, cfg)
	if err != nil {
		golden.forget()
		return m.failure(err)
	}
	if err := golden.check(ctx, s.deps.Load); err != nil {
		return errors.Join(err, st.dev.discard(ctx, be, e))
	}
	var guesses *drafter
	if draft != nil && st.index == 0 {
		if guesses, err = s.loadDraft(ctx, st, draft); err != nil {
			return errors.Join(err, st.dev.discard(ctx, be, e))
		}
	}
	var used compute.Memory
	err = st.dev.do(ctx, func() {
		be.settle()
		st.dev.add(st, e, guesses)
		used = st.dev.be.Used()
	})
	if err != nil {
		return err
	}
	seeing := uint64(0)
	if part.Embed && m.Vision != nil { // last: the layers may be shared by now
		if seeing, err = s.openSight(st.pipe.model, m); err != nil {
			return err
		}
	}
	st.ready.Store(true)
	state := st.state(pb.LoadState_LOAD_STATE_READY)
	state.DoneBytes, state.TotalBytes, state.UsedBytes = total, total, used.Total()+seeing
	state.UsedWeights, state.UsedCaches = used.Weights, used.Caches
	s.control.report(state)
	s.deps.Telemetry.ObserveLoad(st.pipe.model, int64(total), time.Since(began))
	s.deps.Telemetry.SetLayers(st.pipe.model, part.End-part.First)
	s.deps.Log.Info("stage loaded", "epoch", st.pipe.epoch, "stage", st.index, "first", part.First, "end", part.End, "bytes", total)
	return nil
}

// openSight opens a model once more, for its vision encoder, and returns the bytes that
// it takes.
func (s *Shard) openSight(name string, m *Model) (uint64, error) {
	err := s.sight.open(m.File, func() (*Model, error) {
		again, err := s.deps.Open(name)
		if err != nil {
			return nil, err
		}
		if again.File != m.File || again.Vision == nil {
			return nil, errors.Join(fmt.Errorf("model %s has changed while it was loaded", name), again.Close())
		}
		return again, nil
	})
	if err != nil {
		return 0, fmt.Errorf("open the vision encoder: %w", err)
	}
	return m.Vision.Memory(), nil
}

// fail reports that a stage cannot be loaded.
func (s *Shard) fail(st *stage, err error) {
	s.deps.Log.Error("load stage", "epoch", st.pipe.epoch, "stage", st.index, "err", err)
	state := st.state(pb.LoadState_LOAD_STATE_FAILED)
	state.Error, state.NoMemory = err.Error(), errors.Is(err, compute.ErrMemory)
	s.control.report(state)
}

func (st *stage) state(l pb.LoadState) *pb.StageState {
	return &pb.StageState{Epoch: st.pipe.epoch, Pipeline: st.pipe.plan.Id, Stage: uint32(st.index), State: l}
}

// counted is a source that tells how many bytes were asked for.
type counted struct {
	model.Source
	done   uint64
	last   time.Time
	report func(done uint64)
}

// Outline is that of the source: what is only described is not counted.
func (c *counted) Outline() model.Source { return model.Outline(c.Source) }

// Tensor is that of the source.
func (c *counted) Tensor(name string) (compute.Matrix, bool) {
	m, ok := c.Source.Tensor(name)
	if ok {
		c.done += uint64(len(m.Data))
		if now := time.Now(); now.Sub(c.last) >= reportEvery {
			c.last = now
			c.report(c.done)
		}
	}
	return m, ok
}
