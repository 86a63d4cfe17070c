package driver

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/kv"
)

// next is the simulated model: the id that follows ids, a function of them and
// of the seed alone. With even seeds it looks at the last two ids only: it repeats
// itself, and guesses hold.
func next(seed uint64, ids []int32) int32 {
	h := fnv.New64a()
	if seed%2 == 0 {
		fmt.Fprint(h, seed, ids[max(0, len(ids)-2):])
		return 10 + int32(h.Sum64()%3)
	}
	fmt.Fprint(h, seed, ids)
	return int32(h.Sum64() % 50)
}

// stopID ends a session.
const stopID = 7

func finish(id int32, answer, most int) frame.Finish {
	switch {
	case id == stopID:
		return frame.FinishStop
	case answer == most:
		return frame.FinishLength
	}
	return frame.FinishNone
}

// alone is the answer of a session that has the pipeline for itself.
func alone(seed uint64, prompt []int32, most, context int) []int32 {
	ids := slices.Clone(prompt)
	for len(ids) <= context {
		id := next(seed, ids)
		ids = append(ids, id)
		if finish(id, len(ids)-len(prompt), most) != frame.FinishNone {
			break
		}
	}
	return ids[len(prompt):]
}

// stage is a simulated one: it keeps the log, and the ids of each slot.
type stage struct {
	log  *kv.Log
	open map[frame.Slot]*frame.Open
	ids  map[frame.Slot][]int32
}

func newStage(cfg Config) *stage {
	logs := kv.Config{Epoch: cfg.Epoch, Pipeline: cfg.Pipeline, Pages: cfg.Pages, Slots: cfg.Slots, Rows: cfg.Rows, Context: cfg.Context}
	if logs.KV = cfg.KV; cfg.Cached == 0 && cfg.KV.Ratio == 0 { // nothing is shared: keys and values may step down
		logs.KV = compute.KVClass{Bits: 2, Group: 32, Recent: 64, Upper: 4, Far: 128}
	}
	return &stage{
		log:  kv.NewLog(logs),
		open: map[frame.Slot]*frame.Open{}, ids: map[frame.Slot][]int32{},
	}
}

func (s *stage) apply(f *frame.Frame) (*frame.Result, error) {
	step, err := s.log.Apply(f)
	if err != nil {
		return nil, err
	}
	for _, slot := range step.Closed {
		delete(s.open, slot)
		delete(s.ids, slot)
	}
	for _, o := range step.Opened {
		s.open[o.Slot], s.ids[o.Slot] = o, slices.Clone(o.History)
	}
	for i := range f.Ops {
		if t := f.Ops[i].Truncate; t != nil {
			s.ids[t.Slot] = s.ids[t.Slot][:t.Len]
		}
	}
	r := &frame.Result{Epoch: f.Epoch, Pipeline: f.Pipeline, Step: f.Step}
	r.Timings = []frame.Timing{{ComputeNS: uint64(1000 + 10*f.NumRows()), Rows: uint32(f.NumRows())}}
	for i := range f.Spans {
		sp := &f.Spans[i]
		s.ids[sp.Slot] = append(s.ids[sp.Slot], sp.Tokens...)
		if sp.Output == frame.OutputSample {
			r.Sampled = append(r.Sampled, s.sample(sp))
		}
	}
	return r, nil
}

// sample samples after a span's ids, and after its guesses as long as they hold.
func (s *stage) sample(sp *frame.Span) frame.Sampled {
	o, ids := s.open[sp.Slot], s.ids[sp.Slot]
	at := len(ids) - int(sp.Drafted)
	out := frame.Sampled{Slot: sp.Slot, Attempt: o.Attempt, Position: int32(at)}
	for ; ; at++ {
		id := next(o.Sampling.Seed, ids[:at])
		out.IDs = append(out.IDs, id)
		out.Finish = finish(id, at+1-int(o.AnswerStart), int(o.Sampling.MaxTokens))
		if out.Finish != frame.FinishNone || at == len(ids) || ids[at] != id {
			return out
		}
	}
}

// client is one session as the coordinator sees it.
type client struct {
	slot    frame.Slot
	attempt uint32
	seed    uint64
	prompt  []int32
	most    int
	haltAt  int // halted once it has this many ids; -1 is never
	got     []int32
	halted  bool
	closed  bool
	reason  Reason
	done    int // of the prompt
}

// world is a driver, a pipeline and a coordinator, advanced in any order.
type world struct {
	t       *rapid.T
	cfg     Config
	ahead   int
	rng     *rand.Rand
	m       *Machine
	stages  []*stage
	now     time.Time
	hops    [][]*frame.Frame // hops[i] waits before stage i
	results []*frame.Result  // to the driver
	copies  []*frame.Result  // to the coordinator
	wishes  []Wish           // to the draft model
	waiting []*client
	bySlot  []*client
	all     []*client
}

func (w *world) do(ev Event) {
	w.t.Helper()
	out, err := w.m.Step(w.now, ev)
	if err != nil {
		w.t.Fatalf("%T: %v", ev, err)
	}
	for _, f := range out.Send {
		w.checkFrame(f)
		w.hops[0] = append(w.hops[0], f)
	}
	for _, p := range out.Prefilled {
		c := w.bySlot[p.Slot]
		if p.Done <= c.done || p.Done > p.Total || p.Total != len(c.prompt) {
			w.t.Fatalf("prefilled %+v after %d", p, c.done)
		}
		c.done = p.Done
	}
	for _, cl := range out.Closed {
		c := w.bySlot[cl.Slot]
		if c == nil || c.attempt != cl.Attempt || c.closed {
			w.t.Fatalf("closed %+v, client %+v", cl, c)
		}
		c.closed, c.reason = true, cl.Reason
		w.bySlot[cl.Slot] = nil
	}
	for _, q := range out.Wishes {
		if len(q.IDs)+q.Count > w.cfg.Context || q.Count < 1 || q.Count > w.cfg.Drafts || !w.cfg.Drafter {
			w.t.Fatalf("%d guesses are wanted after %d ids", q.Count, len(q.IDs))
		}
		w.wishes = append(w.wishes, q)
	}
	if w.m.InFlight() > w.cfg.InFlight {
		w.t.Fatalf("%d steps in flight", w.m.InFlight())
	}
}

// checkFrame holds what may be in a step: no stopped session, nobody who has a
// row that asks in flight, no more ids ahead than allowed.
func (w *world) checkFrame(f *frame.Frame) {
	for i := range f.Spans {
		sp := &f.Spans[i]
		c := w.bySlot[sp.Slot]
		if c == nil || c.halted {
			w.t.Fatalf("step %d has a row of slot %d, which is stopped", f.Step, sp.Slot)
		}
		if int(sp.Start) < len(c.prompt) {
			continue
		}
		if over := int(sp.Start) + len(sp.Tokens) + 1 - w.m.slots[sp.Slot].committed; over > w.ahead {
			w.t.Fatalf("step %d samples %d ids ahead", f.Step, over)
		}
		for j := range w.m.flight {
			if fl := &w.m.flight[j]; fl.step != f.Step && slices.ContainsFunc(fl.asks, func(a ask) bool { return a.session == w.m.slots[sp.Slot] }) {
				w.t.Fatalf("slot %d is asked in steps %d and %d", sp.Slot, fl.step, f.Step)
			}
		}
	}
	if w.m.decodes > w.cfg.Lanes {
		w.t.Fatalf("%d steps with decode rows in flight, at most %d lanes", w.m.decodes, w.cfg.Lanes)
	}
}

// advance does one random thing that can be done; false when there is none.
func (w *world) advance() bool {
	var can []func()
	for i := range w.hops {
		if len(w.hops[i]) > 0 {
			can = append(can, func() { w.stage(i) })
		}
	}
	if len(w.results) > 0 {
		can = append(can, func() {
			r := w.results[0]
			w.results = w.results[1:]
			w.do(Returned{r})
		})
	}
	if len(w.copies) > 0 {
		can = append(can, w.commit)
	}
	if len(w.wishes) > 0 {
		can = append(can, w.guess)
	}
	for slot, c := range w.bySlot {
		if c == nil && len(w.waiting) > 0 {
			can = append(can, func() { w.submit(frame.Slot(slot)) })
			break
		}
	}
	if len(can) == 0 {
		return false
	}
	w.now = w.now.Add(time.Duration(w.rng.IntN(int(time.Millisecond))))
	can[w.rng.IntN(len(can))]()
	return true
}

func (w *world) stage(i int) {
	f := w.hops[i][0]
	w.hops[i] = w.hops[i][1:]
	r, err := w.stages[i].apply(f)
	if err != nil {
		w.t.Fatalf("stage %d: %v", i, err)
	}
	if i+1 < len(w.hops) {
		w.hops[i+1] = append(w.hops[i+1], f)
		return
	}
	w.results, w.copies = append(w.results, r), append(w.copies, r)
}

// guess is the draft model: it is right as long as a die says so, has nothing to say
// now and then, and fails once in a while.
func (w *world) guess() {
	q := w.wishes[0]
	w.wishes = w.wishes[1:]
	e := Guessed{Slot: q.Open.Slot, Attempt: q.Open.Attempt, Took: time.Duration(w.rng.IntN(3)) * 100 * time.Microsecond}
	if w.rng.IntN(8) > 0 {
		ids := slices.Clone(q.IDs)
		for range q.Count {
			id := next(q.Open.Sampling.Seed, ids)
			if w.rng.IntN(4) == 0 {
				id++
			}
			ids, e.IDs = append(ids, id), append(e.IDs, id)
		}
	}
	e.Failed = w.rng.IntN(200) == 0
	w.do(e)
}

// commit is the coordinator's part of a result.
func (w *world) commit() {
	r := w.copies[0]
	w.copies = w.copies[1:]
	for _, s := range r.Sampled {
		// The news that a slot is free may overtake the copy of its last result.
		c := w.all[s.Attempt-1]
		if c.halted {
			continue
		}
		c.got = append(c.got, s.IDs...)
		w.do(Commit{Slot: s.Slot, Attempt: s.Attempt, Length: len(c.prompt) + len(c.got)})
		w.maybeHalt(c)
	}
}

func (w *world) maybeHalt(c *client) {
	if len(c.got) == c.haltAt && w.bySlot[c.slot] == c {
		c.halted = true
		w.do(Halt{Slot: c.slot, Attempt: c.attempt})
	}
}

func (w *world) submit(slot frame.Slot) {
	c := w.waiting[0]
	w.waiting = w.waiting[1:]
	c.slot = slot
	w.bySlot[slot] = c
	o := &frame.Open{Slot: slot, Attempt: c.attempt, AnswerStart: int32(len(c.prompt))}
	o.Sampling.Seed, o.Sampling.MaxTokens = c.seed, int32(c.most)
	o.Weight = float32(w.rng.IntN(3))
	o.PrefixSalt = []byte{byte(w.rng.IntN(2))}
	w.do(Submit{Open: o, Tokens: c.prompt, Ahead: w.ahead, Schedule: Schedule{
		Chunk: w.rng.IntN(2) * 16, Fixed: w.rng.IntN(4) == 0, NoDrafts: w.rng.IntN(4) == 0,
	}})
	w.maybeHalt(c)
}

func drawWorld(t *rapid.T) *world {
	stages := rapid.IntRange(1, 4).Draw(t, "stages")
	cfg := Config{
		Epoch: 5, Pipeline: 2, Context: 160,
		Pages:    rapid.SampledFrom([]int{64, 3, 5, 8}).Draw(t, "pages"),
		Slots:    rapid.IntRange(1, 6).Draw(t, "slots"),
		Rows:     rapid.IntRange(1, 80).Draw(t, "rows"),
		Chunk:    rapid.IntRange(1, 80).Draw(t, "chunk"),
		Lanes:    rapid.IntRange(1, 3).Draw(t, "lanes"),
		InFlight: rapid.IntRange(1, stages+2).Draw(t, "in flight"),
		Stages:   stages,
		Drafts:   rapid.SampledFrom([]int{0, 1, 8}).Draw(t, "drafts"),
		Drafter:  rapid.Bool().Draw(t, "drafter"),
		Cached:   rapid.SampledFrom([]int{0, 2, 64}).Draw(t, "cached"),
		Target:   rapid.SampledFrom([]time.Duration{0, time.Millisecond}).Draw(t, "target"),
	}
	return newWorld(t, cfg, 150, 64*rapid.IntRange(0, 2).Draw(t, "common"))
}

// drawLongWorld has sessions that thin old positions out.
func drawLongWorld(t *rapid.T) *world {
	cfg := Config{
		Epoch: 5, Pipeline: 2, Context: 4000, Stages: 2, InFlight: 3, Lanes: 2, Slots: 3, Drafts: 8,
		Pages:  rapid.SampledFrom([]int{200, 45, 70}).Draw(t, "pages"),
		Rows:   rapid.IntRange(100, 700).Draw(t, "rows"),
		Chunk:  rapid.IntRange(100, 700).Draw(t, "chunk"),
		Cached: rapid.SampledFrom([]int{0, 200}).Draw(t, "cached"),
		KV:     rapid.SampledFrom([]compute.KVClass{{Bits: 16, Ratio: 4, Older: 1024}, {Bits: 16, Ratio: 8, Older: 2048}}).Draw(t, "class"),
	}
	if cfg.Cached == 0 {
		cfg.KV = compute.KVClass{Bits: 2, Group: 32, Recent: 64, Upper: 4, Far: 128, Ratio: 4, Older: 1024}
	}
	return newWorld(t, cfg, 3500, rapid.SampledFrom([]int{0, 640, 2560}).Draw(t, "common"))
}

// newWorld has sessions of prompts of up to so many ids, the first of which are the
// same in every other one.
func newWorld(t *rapid.T, cfg Config, longest, common int) *world {
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	stages := cfg.Stages
	w := &world{
		t: t, cfg: cfg, m: m, ahead: rapid.IntRange(1, 8).Draw(t, "ahead"),
		rng:  rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)),
		hops: make([][]*frame.Frame, stages), bySlot: make([]*client, cfg.Slots),
	}
	for range stages {
		w.stages = append(w.stages, newStage(cfg))
	}
	for i := range rapid.IntRange(1, 12).Draw(t, "sessions") {
		prompt := make([]int32, 1+w.rng.IntN(longest))
		for j := range prompt {
			prompt[j] = int32(i % 2)
			if j >= common {
				prompt[j] = int32(w.rng.IntN(50))
			}
		}
		seed := w.rng.Uint64()
		if longest > 1000 {
			seed &^= 1 // looks at few ids
		}
		c := &client{attempt: uint32(i + 1), seed: seed, prompt: prompt, most: 1 + w.rng.IntN(30), haltAt: -1}
		if w.rng.IntN(3) == 0 {
			c.haltAt = w.rng.IntN(5)
		}
		w.waiting, w.all = append(w.waiting, c), append(w.all, c)
	}
	return w
}

// TestSessionsAsIfAlone runs sessions over a simulated pipeline whose parts
// advance in any order. Each gets the ids it would get alone; a stopped one is
// in no further step; everything is free in the end.
func TestSessionsAsIfAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		drawWorld(t).runAlone(t)
	})
}

// TestThinningSessionsAsIfAlone is that for sessions long enough to thin old positions
// out: the driver counts their pages as the stages do.
func TestThinningSessionsAsIfAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { drawLongWorld(t).runAlone(t) })
}

// runAlone runs all sessions and holds what they got against what each gets alone.
func (w *world) runAlone(t *rapid.T) {
	for w.advance() {
	}
	for i, c := range w.all {
		want := alone(c.seed, c.prompt, c.most, w.cfg.Context)
		if !c.closed {
			t.Fatalf("session %d never closed", i)
		}
		if c.halted || c.reason == ReasonFailed && w.cfg.Pages < w.cfg.KV.Pages(len(c.prompt)+len(c.got)+1) {
			want = want[:min(len(want), len(c.got))]
		}
		if !slices.Equal(c.got, want) {
			t.Fatalf("session %d got %v, alone %v (closed: %s; prompt of %d, %d pages)", i, c.got, want, c.reason, len(c.prompt), w.cfg.Pages)
		}
		if !c.halted && c.reason != ReasonFailed && c.done != len(c.prompt) {
			t.Fatalf("session %d: prompt done up to %d of %d", i, c.done, len(c.prompt))
		}
	}
	for i, s := range w.stages {
		if kept := w.m.Stats().Prefixes; s.log.Free() != w.m.free || w.m.free+kept != w.cfg.Pages || kept > w.cfg.Cached {
			t.Fatalf("stage %d has %d pages free, driver %d and %d of prefixes", i, s.log.Free(), w.m.free, kept)
		}
	}
}
