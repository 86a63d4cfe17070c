package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/shoal-llm/shoal/internal/weights"
)

// pass returns the pass over all of a model; nil when there is nothing to read back.
func (m *models) pass(o opened) (*weights.Pass, error) {
	if o.stored == nil {
		return m.keeper.LocalPass(o.Model)
	}
	return m.keeper.StoredPass(o.stored, o.stored.All(), func(ctx context.Context, segments []int) error {
		return m.keeper.Gather(ctx, o.stored, weights.Order{Segments: segments}, weights.DefaultPatience())
	}), nil
}

// background returns a part that makes a pass beside other work.
func background(p *weights.Pass, name string, log *slog.Logger) part {
	return func(ctx context.Context) error {
		err := p.Run(ctx, weights.Pace{Gentle: true}, nil)
		switch {
		case err == nil:
			log.Info("all bytes of the model are verified", "model", name)
		case errors.Is(err, weights.ErrDamaged):
			log.Error("the model is damaged", "model", name, "err", err)
		case ctx.Err() == nil:
			log.Warn("the model stays unverified", "model", name, "err", err)
		}
		return nil
	}
}

// nothing is a part that has nothing to do.
func nothing(context.Context) error { return nil }

// verify reads back a model as --verify has it: now, with its progress shown, or by the
// part that it returns. That of a model in the store, which is there in part only, is
// for those who load it.
func (m *models) verify(ctx context.Context, o opened, show *shown, log *slog.Logger) (part, error) {
	when := m.keeper.Verify()
	if when == weights.VerifyOff {
		return nothing, nil
	}
	p, err := m.pass(o)
	switch {
	case err != nil && when == weights.VerifyBackground:
		log.Warn("the model stays unverified", "model", o.Name, "err", err)
		return nothing, nil
	case p == nil || err != nil:
		return nothing, err
	case when == weights.VerifyBackground:
		return background(p, o.Name, log), nil
	}
	err = p.Run(ctx, weights.Pace{}, show.progress(o.Name))
	show.end()
	return nothing, err
}

// verifyLent is verify of what a coordinator lends. What it has in the store shards read
// back themselves.
func (m *models) verifyLent(ctx context.Context, o opened, show *shown, log *slog.Logger) (part, error) {
	if o.stored != nil {
		return nothing, nil
	}
	return m.verify(ctx, o, show, log)
}

// verifyRun is verify beside one answer: end breaks off what is not through by then, and
// the next run goes on with it.
func (m *models) verifyRun(ctx context.Context, o opened, show *shown, log *slog.Logger) (end func(), err error) {
	p, err := m.verify(ctx, o, show, log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p(ctx) // it tells the log
	}()
	return func() { cancel(); <-ended }, nil
}
