package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/kv"
	"github.com/shoal-llm/shoal/pkg/model"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/driver"
)

// drafter is a draft model on the device of a pipeline's first stage. It guesses the
// next ids of a few sessions, each as the session itself would sample them: by its
// temperature and seed. What it holds of a session's text follows the session's: what
// did not hold is forgotten, what came instead is computed.
type drafter struct {
	dev     *device
	rows    int // of a step
	context int
	vocab   int // ids from there on mean nothing to the model that is served
	epoch   uint64

	// Of the goroutine that owns the device:
	engine Engine // nil once closed

	// Of the driver's goroutine:
	places []place
	pages  int // of the cache

	// Of run:
	held     [][]int32 // the ids that the model has computed, by place; nil: no session is open
	attempts []uint32  // of the open sessions
	opens    uint32
	step     uint64
}

// place is one of the sessions that the model holds.
type place struct {
	taken   bool
	slot    frame.Slot // of the session
	attempt uint32
	pages   int  // 0: the model holds nothing
	busy    bool // a wish is on its way
}

// draftWish is one on its way to the model.
type draftWish struct {
	driver.Wish
	at     int   // the place
	leaves []int // places whose sessions have ended
}

// drafted is the answer.
type drafted struct {
	driver.Guessed
	at  int
	err error // the model guesses no more
}

// openDraft opens the draft model of a plan, and brings its weights, for stages that
// are to be loaded; nil where none of them begins a pipeline or there is none.
func (s *Shard) openDraft(ctx context.Context, plan *pb.Plan, stages []*stage) (*Model, error) {
	want := plan.GetDraft()
	first := false
	for _, st := range stages {
		first = first || st.index == 0
	}
	if want == nil || !first {
		return nil, nil
	}
	m, err := s.openModel(ctx, want.GetModel(), plan.Holders)
	if err != nil || m.stored == nil {
		return m, err
	}
	o := s.order(plan.Holders, func(int) string { return plan.Pipelines[0].Stages[0].Node })
	return m, m.closeOn(s.fetch(ctx, m, o, m.stored.needs(model.Whole(m.Spec)), s.fetching(stages)))
}

// loadDraft loads the draft model beside the first stage of a pipeline.
func (s *Shard) loadDraft(ctx context.Context, st *stage, m *Model) (*drafter, error) {
	want := st.pipe.draft
	d := &drafter{
		dev: st.dev, rows: int(want.GetRows()), context: min(int(want.GetModel().GetContext()), m.Spec.Context), vocab: st.pipe.vocab,
		places: make([]place, want.GetSessions()), held: make([][]int32, want.GetSessions()), pages: int(want.GetPages()),
		attempts: make([]uint32, want.GetSessions()), epoch: st.pipe.epoch,
	}
	be := st.dev.tenant(ctx, m)
	be.refuse = st.pipe.fuse.reason
	e, err := s.deps.Load(be, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: st.pipe.epoch, Part: model.Whole(m.Spec), Pages: d.pages, Slots: len(d.places),
		Rows: d.rows, Context: d.context, KV: m.KV,
	})
	if err != nil {
		return nil, fmt.Errorf("load the draft model: %w", m.failure(err))
	}
	d.engine = e
	return d, st.dev.do(ctx, be.settle)
}

// close gives back what the model holds. The owner of the device calls it.
func (d *drafter) close() error {
	if d == nil || d.engine == nil {
		return nil
	}
	e := d.engine
	d.engine = nil
	return e.Close()
}

// seat finds the place of a session that wishes for guesses, or a free one; false
// where there is none, or no pages for so long a text.
func (d *drafter) seat(w driver.Wish) (draftWish, bool) {
	out := draftWish{Wish: w, at: -1}
	positions := len(w.IDs) + w.Count
	need, used := (positions+kv.PageTokens-1)/kv.PageTokens, 0
	for i := range d.places {
		p := &d.places[i]
		switch {
		case p.taken && p.slot == w.Open.Slot && p.attempt == w.Open.Attempt:
			if p.busy {
				return out, false
			}
			out.at = i
		case p.taken || p.busy:
			used += p.pages
		}
	}
	for i := range d.places { // one that is free
		if p := &d.places[i]; out.at < 0 && !p.taken && !p.busy {
			out.at = i
		}
	}
	if out.at < 0 || positions > d.context || used+need > d.pages {
		return out, false
	}
	for i := range d.places {
		if p := &d.places[i]; !p.taken && !p.busy && p.pages > 0 {
			out.leaves = append(out.leaves, i)
			p.pages = 0
		}
	}
	d.places[out.at] = place{taken: true, slot: w.Open.Slot, attempt: w.Open.Attempt, pages: need, busy: true}
	return out, true
}

// leave frees the place of a session that has ended.
func (d *drafter) leave(slot frame.Slot, attempt uint32) {
	for i := range d.places {
		if p := &d.places[i]; p.taken && p.slot == slot && p.attempt == attempt {
			p.taken = false
		}
	}
}

// run guesses until ctx ends or the model fails, one wish after the other.
func (d *drafter) run(ctx context.Context, wishes <-chan draftWish, out chan<- drafted) {
	for {
		var w draftWish
		select {
		case w = <-wishes:
		case <-ctx.Done():
			return
		}
		answer := drafted{at: w.at, Guessed: driver.Guessed{Slot: w.Open.Slot, Attempt: w.Open.Attempt}}
		answer.IDs, answer.Took, answer.err = d.guess(ctx, w)
		answer.Failed = answer.err != nil
		select {
		case out <- answer:
		case <-ctx.Done():
			return
		}
		if answer.Failed {
			return
		}
	}
}

// timely is how many rows a step may compute to tell how long the model takes for an
// id.
const timely = 2

// guess brings the model's text up to the session's and has it go on for some ids. It
// says none where the text is longer by more than a step: the rest comes with the next
// wishes. took is what an id takes; 0 was not measured.
func (d *drafter) guess(ctx context.Context, w draftWish) (ids []int32, took time.Duration, err error) {
	f := &frame.Frame{}
	for _, i := range w.leaves {
		f.Ops = append(f.Ops, frame.Op{Close: &frame.Close{Slot: frame.Slot(i)}})
		d.held[i] = nil
	}
	slot := frame.Slot(w.at)
	if d.held[w.at] == nil {
		d.opens++
		o := frame.Open{Slot: slot, Attempt: d.opens, Sampling: w.Open.Sampling, AnswerStart: w.Open.AnswerStart}
		o.Sampling.IgnoreEOS, o.Sampling.MaxTokens = true, 0 // where the session ends is not the model's to say
		o.Sampling.LogProbs, o.Sampling.TopLogProbs = false, 0
		f.Ops = append(f.Ops, frame.Op{Open: &o})
		d.held[w.at] = []int32{}
		d.attempts[w.at] = d.opens
	}
	same := 0
	for held := d.held[w.at]; same < min(len(held), len(w.IDs)-1) && held[same] == w.IDs[same]; same++ {
	}
	if same < len(d.held[w.at]) {
		f.Ops = append(f.Ops, frame.Op{Truncate: &frame.Truncate{Slot: slot, Len: int32(same)}})
		d.held[w.at] = d.held[w.at][:same]
	}
	next := w.IDs[same:]
	behind := len(next) > d.rows
	span := frame.Span{Slot: slot, Attempt: d.attempts[w.at], Tokens: next[:min(len(next), d.rows)], Output: frame.OutputSample}
	if behind {
		span.Output = frame.OutputNone
	}
	began, counted := time.Now(), 0
	if len(next) > timely {
		counted = -1 // the first step says nothing
	}
	for {
		span.Start = int32(len(d.held[w.at]))
		f.Spans = []frame.Span{span}
		id, err := d.compute(ctx, f)
		if err != nil {
			return nil, 0, err
		}
		d.held[w.at] = append(d.held[w.at], span.Tokens...)
		if behind {
			return nil, 0, nil
		}
		if counted++; counted == 0 {
			began = time.Now()
		}
		if int(id) >= d.vocab {
			break // a padding of the model's own
		}
		if ids = append(ids, id); len(ids) == w.Count {
			break
		}
		f, span.Tokens = &frame.Frame{}, []int32{id}
	}
	if counted > 0 {
		took = time.Since(began) / time.Duration(counted)
	}
	return ids, took, nil
}

var errDraftGone = errors.New("the stage beside the draft model is gone")

// compute takes one step between those of others and returns the id that its span asks
// for.
func (d *drafter) compute(ctx context.Context, f *frame.Frame) (id int32, err error) {
	d.step++
	lost := d.dev.do(ctx, func() {
		if d.engine == nil {
			err = errDraftGone
			return
		}
		f.Epoch, f.Step = d.epoch, d.step
		d.dev.abandon()
		d.dev.lastTag++
		if err = d.engine.Start(d.dev.lastTag, f); err != nil {
			return
		}
		c, ok := <-d.dev.be.Completions()
		if !ok {
			err = errors.New("the backend was closed")
			return
		}
		var out engine.Output
		if out, err = d.engine.Finish(c); err != nil {
			return
		}
		if f.Spans[0].Output == frame.OutputSample {
			id, err = onlyID(out)
		}
	})
	return id, errors.Join(lost, err)
}

func onlyID(out engine.Output) (int32, error) {
	if out.Result == nil || len(out.Result.Sampled) != 1 {
		return 0, errors.New("the draft model sampled nothing")
	}
	s := &out.Result.Sampled[0]
	if s.Err != "" || len(s.IDs) != 1 {
		return 0, fmt.Errorf("the draft model sampled %d ids: %s", len(s.IDs), s.Err)
	}
	return s.IDs[0], nil
}
