package shard

import (
	"cmp"
	"context"
	"errors"
	"time"

	gather "github.com/shoal-llm/shoal/internal/weights"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/command"
)

const (
	phaseVerify = gather.PhaseVerify
	quietAfter  = 300 * time.Millisecond // without a step of an answer, a device is not busy
	verifyEvery = 10 * time.Second       // between two lines of progress in the log
)

// passOf returns the pass over what stages need of a model; nil when there is nothing
// to read back.
func (s *Shard) passOf(m *Model, plan *pb.Plan, stages []*pb.Stage) (*gather.Pass, error) {
	k := s.deps.Weights
	if k == nil || k.Verify() == gather.VerifyOff || len(stages) == 0 {
		return nil, nil
	}
	if m.stored == nil {
		if m.file == nil {
			return nil, nil
		}
		return k.LocalPass(m.file)
	}
	var segments []int
	for _, st := range stages {
		segments = append(segments, m.stored.needs(command.PartOf(st))...)
	}
	segments = append(segments, gather.Heads(m.stored.m)...)
	stored, holders := m.stored.m, plan.Holders
	return k.StoredPass(stored, segments, func(ctx context.Context, segments []int) error {
		o := s.order(holders, nil)
		o.Segments = segments
		return k.Gather(ctx, stored, o, gather.DefaultPatience())
	}), nil
}

// verifyFirst reads back what stages need of a model before any of it is loaded, where
// that is required. It ends when none of the stages is wanted any more.
func (s *Shard) verifyFirst(ctx context.Context, m *Model, plan *pb.Plan, stages []*stage) error {
	if s.deps.Weights == nil || s.deps.Weights.Verify() != gather.VerifyRequire {
		return nil
	}
	if len(stages) == 0 {
		return nil
	}
	var parts []*pb.Stage
	for _, st := range stages {
		parts = append(parts, st.pipe.plan.Stages[st.index])
	}
	p, err := s.passOf(m, plan, parts)
	if p == nil {
		s.unread(plan.Model.Name, err)
		return err
	}
	ctx, end := whileWanted(ctx, stages)
	defer end()
	var reported time.Time
	tell := s.verifying(p, plan.Model.Name)
	err = p.Run(ctx, gather.Pace{}, func(g gather.Progress) {
		tell(g)
		if time.Since(reported) < reportEvery {
			return
		}
		reported = time.Now()
		for _, st := range stages {
			state := st.state(pb.LoadState_LOAD_STATE_LOADING)
			state.Phase, state.DoneBytes, state.TotalBytes = phaseVerify, uint64(g.Done), uint64(g.Total)
			state.Rate, state.Note = g.Rate, g.Note
			s.control.report(state)
		}
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.verified(p, plan.Model.Name, err)
	return err
}

// verifyLater hands what this node's stages of a plan need of a model to the background.
// What was handed over before gives way to it.
func (s *Shard) verifyLater(m *Model, plan *pb.Plan) {
	if s.deps.Weights == nil || s.deps.Weights.Verify() != gather.VerifyBackground {
		return
	}
	var own []*pb.Stage
	for _, pl := range plan.Pipelines {
		for _, st := range pl.Stages {
			if st.Node == s.deps.Identity.NodeID() {
				own = append(own, st)
			}
		}
	}
	p, err := s.passOf(m, plan, own)
	if p == nil && len(own) > 0 {
		s.unread(plan.Model.Name, err)
	}
	if p == nil {
		return
	}
	select {
	case <-s.passes:
	default:
	}
	s.passes <- backgroundPass{p, plan.Model.Name} // the loader alone sends
}

// unread tells that there is no pass over a model: it has no files, or err.
func (s *Shard) unread(model string, err error) {
	if err == nil {
		s.control.checked(nil)
		return
	}
	s.deps.Log.Warn("the model stays unverified", "model", model, "err", err)
	s.control.checked(&pb.WeightCheck{Model: model, State: gather.Unverified, Note: err.Error()})
}

// backgroundPass is a pass over a model that serves.
type backgroundPass struct {
	*gather.Pass
	model string
}

// verifyAll makes the passes in the background, until ctx ends. One at a time: the next
// one ends it.
func (s *Shard) verifyAll(ctx context.Context) error {
	for next, ok := s.nextPass(ctx); ok; {
		pass, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.verify(pass, next)
		}()
		newer, more := s.nextPass(ctx)
		cancel()
		<-ended
		next, ok = newer, more
	}
	return nil
}

// nextPass waits for a pass that is handed over; there is none once ctx ends.
func (s *Shard) nextPass(ctx context.Context) (p backgroundPass, ok bool) {
	select {
	case <-ctx.Done():
		return p, false
	case p = <-s.passes:
		return p, true
	}
}

func (s *Shard) verify(ctx context.Context, p backgroundPass) {
	err := p.Run(ctx, gather.Pace{Gentle: true, Busy: s.busy}, s.verifying(p.Pass, p.model))
	if ctx.Err() == nil {
		s.verified(p.Pass, p.model, err)
	}
}

// verified tells how a pass ended: the log, and the coordinator.
func (s *Shard) verified(p *gather.Pass, model string, err error) {
	w := &pb.WeightCheck{Model: model, State: gather.Unverified}
	switch {
	case errors.Is(err, gather.ErrDamaged):
		w.State, w.Note = gather.Damaged, err.Error()
		s.deps.Log.Error("the model is damaged", "model", model, "err", err)
	case err != nil:
		w.Note = err.Error()
		s.deps.Log.Warn("the model stays unverified", "model", model, "err", err)
	default:
		if w.State, err = p.Standing(); err != nil {
			w.Note = err.Error()
		}
		s.deps.Log.Info("all bytes of the model that are used here were read back", "model", model, "state", w.State)
	}
	s.control.checked(w)
}

// verifying tells how far a pass is: the log, and the coordinator.
func (s *Shard) verifying(p *gather.Pass, model string) func(gather.Progress) {
	standing, err := p.Standing() // as earlier passes have left it
	note := ""
	if err != nil {
		note = err.Error()
	}
	var reported time.Time
	told := time.Now()
	return func(g gather.Progress) {
		now := time.Now()
		if now.Sub(told) >= verifyEvery {
			told = now
			s.deps.Log.Info("verifying the model", "model", model, "bytes", g.Done, "of", g.Total, "note", g.Note)
		}
		if now.Sub(reported) >= reportEvery {
			reported = now
			s.control.checked(&pb.WeightCheck{Model: model, State: standing, DoneBytes: uint64(g.Done), TotalBytes: uint64(g.Total), Note: cmp.Or(g.Note, note)})
		}
	}
}

// busy reports whether stages are being loaded, or answers computed.
func (s *Shard) busy() bool {
	if s.loading.Load() {
		return true
	}
	for _, d := range s.devices {
		if time.Since(time.Unix(0, d.worked.Load())) < quietAfter {
			return true
		}
	}
	return false
}

// whileWanted returns a context that ends when none of the stages is wanted any more.
func whileWanted(ctx context.Context, stages []*stage) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		for _, st := range stages {
			select {
			case <-st.pipe.fuse.done:
			case <-ctx.Done():
				return
			}
		}
		cancel(stages[0].pipe.fuse.reason())
	}()
	return ctx, func() { cancel(nil) }
}
