package driver

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// pipeline loads the embedded model split over two stages.
func pipeline(t *testing.T, m *library.Model, kv compute.KVClass, cfg Config) *engine.Local {
	t.Helper()
	be, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	var stages []*engine.Stage
	half := m.Spec.Layers / 2
	for i, part := range []model.Part{{End: half, Embed: true}, {First: half, End: m.Spec.Layers, Head: true}} {
		st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
			Epoch: cfg.Epoch, Stage: uint32(i), Part: part,
			Pages: cfg.Pages, Slots: cfg.Slots, Rows: cfg.Rows, Context: cfg.Context, KV: kv,
		})
		if err != nil {
			t.Fatal(err)
		}
		stages = append(stages, st)
	}
	l := engine.NewLocal(stages...)
	t.Cleanup(func() {
		l.Close()
		be.Close()
	})
	return l
}

// question is a session of the real model.
type question struct {
	prompt []int32
	spec   sample.Spec
	weight float32
}

// hall serves questions by a driver over the real model.
type hall struct {
	t       *testing.T
	machine *Machine
	local   *engine.Local
	now     time.Time
	slots   map[frame.Slot]int
	frames  []*frame.Frame
	answers [][]int32
	reasons []Reason
	before  []int // ids that each had when the first session got its first
}

// outcome is what serving was like.
type outcome struct {
	Stats
	before []int // ids that each had when the first session got its first
}

// answer serves questions in waves: the next one when the one before has ended.
func answer(t *testing.T, m *library.Model, cfg Config, waves ...[]question) ([][]int32, outcome) {
	t.Helper()
	return answerIn(t, m, compute.KVClass{}, cfg, waves...)
}

// answerIn answers with keys and values of a class.
func answerIn(t *testing.T, m *library.Model, kv compute.KVClass, cfg Config, waves ...[]question) ([][]int32, outcome) {
	t.Helper()
	cfg.Epoch, cfg.Stages, cfg.Slots, cfg.Pages, cfg.Context, cfg.InFlight = 1, 2, 8, 64, m.Spec.Context, 4
	machine, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := &hall{t: t, machine: machine, local: pipeline(t, m, kv, cfg), now: time.Unix(1, 0), slots: map[frame.Slot]int{}}
	for _, wave := range waves {
		for i, q := range wave {
			h.slots[frame.Slot(i)] = len(h.answers)
			h.answers, h.reasons = append(h.answers, nil), append(h.reasons, "")
			open := &frame.Open{Slot: frame.Slot(i), Attempt: uint32(len(h.answers)), Sampling: q.spec, Weight: q.weight, AnswerStart: int32(len(q.prompt))}
			h.do(Submit{Open: open, Tokens: q.prompt, Ahead: 32})
		}
		for len(h.frames) > 0 {
			h.compute()
		}
	}
	for i, r := range h.reasons {
		if r != ReasonFinished {
			t.Fatalf("session %d ended as %q", i, r)
		}
	}
	return h.answers, outcome{machine.Stats(), h.before}
}

func (h *hall) do(ev Event) {
	h.t.Helper()
	h.now = h.now.Add(time.Millisecond)
	out, err := h.machine.Step(h.now, ev)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, c := range out.Closed {
		h.reasons[h.slots[c.Slot]] = c.Reason
		delete(h.slots, c.Slot)
	}
	h.frames = append(h.frames, out.Send...)
}

// compute takes the oldest frame through all stages and tells what it gave.
func (h *hall) compute() {
	h.t.Helper()
	f := h.frames[0]
	h.frames = h.frames[1:]
	r, err := h.local.Step(f.Ops, f.Spans)
	if err != nil {
		h.t.Fatal(err)
	}
	copied := *r
	copied.Sampled = slices.Clone(r.Sampled)
	for i := range copied.Sampled {
		s := &copied.Sampled[i]
		s.IDs = slices.Clone(s.IDs)
		n := h.slots[s.Slot]
		if n == 0 && h.before == nil {
			for _, a := range h.answers {
				h.before = append(h.before, len(a))
			}
		}
		h.answers[n] = append(h.answers[n], s.IDs...)
		h.do(Commit{Slot: s.Slot, Attempt: s.Attempt, Length: int(s.Position) + len(s.IDs)})
	}
	h.do(Returned{&copied})
}

// TestNothingChangesAnAnswer: neither guesses nor shared prefixes, lanes, chunks
// and company change an id of the real model, at any temperature.
func TestNothingChangesAnAnswer(t *testing.T) {
	m, err := library.Library{}.Open(library.Default)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	vocab, err := m.Vocab()
	if err != nil {
		t.Fatal(err)
	}
	story := vocab.Encode("Tom had a red ball. Tom had a red ball. He liked to play with the red ball. Tom had a red ball. He liked to play with the red")
	var questions []question
	for i, spec := range []sample.Spec{
		{}, {Temperature: 0.3}, {Temperature: 0.7, TopK: 20}, {Temperature: 1.5, TopP: 0.9},
		{Temperature: 1, RepetitionPenalty: 1.3, PenaltyWindow: 64}, {FrequencyPenalty: 0.5, LogProbs: true},
	} {
		spec.Seed, spec.MaxTokens, spec.IgnoreEOS = uint64(i+1), 40, true
		questions = append(questions, question{prompt: slices.Concat(story, story, story[:5*i]), spec: spec, weight: float32(i)})
	}
	alone := Config{Rows: 256, Chunk: 256, Lanes: 1}
	first, _ := answer(t, m, alone, oneByOne(questions)...)
	var next []question // what was said, and on
	for i, q := range questions {
		q.prompt = slices.Concat(q.prompt, first[i])
		next = append(next, q)
	}
	second, _ := answer(t, m, alone, oneByOne(next)...)
	want := slices.Concat(first, second)
	for _, cfg := range []Config{
		{Rows: 64, Chunk: 40, Lanes: 3},
		{Rows: 64, Chunk: 64, Lanes: 1, Drafts: 8, Cached: 64},
		{Rows: 256, Chunk: 256, Lanes: 3, Drafts: 8, Cached: 64, Target: 20 * time.Millisecond},
		{Rows: 32, Chunk: 32, Lanes: 1, Drafts: 4, Cached: 3},
	} {
		t.Run(fmt.Sprintf("%+v", cfg), func(t *testing.T) {
			got, stats := answer(t, m, cfg, questions, next)
			for i := range want {
				if !slices.Equal(got[i], want[i]) {
					t.Errorf("session %d: got %v, alone %v", i, got[i], want[i])
				}
			}
			if cfg.Drafts > 0 && (stats.Accepted == 0 || stats.Drafted == stats.Accepted) {
				t.Errorf("%d of %d guesses held", stats.Accepted, stats.Drafted)
			}
			if cfg.Cached > 8 && stats.Cached < 64*len(next) {
				t.Errorf("%d positions came from prefixes", stats.Cached)
			}
		})
	}
}

// TestNothingChangesAnAnswerOfFewBits: nor where keys and values step down as they
// age; guesses are taken back at the borders of pages too, and the stages always
// have places for the finer forms.
func TestNothingChangesAnAnswerOfFewBits(t *testing.T) {
	m, err := library.Library{}.Open(library.Default)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	vocab, err := m.Vocab()
	if err != nil {
		t.Fatal(err)
	}
	story := vocab.Encode("Tom had a red ball. Tom had a red ball. He liked to play with the red ball. Tom had a red ball. He liked to play with the red")
	var questions []question
	for i := range 8 {
		spec := sample.Spec{Seed: uint64(i + 1), MaxTokens: 70, IgnoreEOS: true, Temperature: float32(i%3) * 0.2}
		questions = append(questions, question{prompt: slices.Concat(slices.Repeat(story, i), story[:3*i+2]), spec: spec})
	}
	class := compute.KVClass{Bits: 2, Group: 32, Recent: 64, Upper: 3, Far: 128}
	want, _ := answerIn(t, m, class, Config{Rows: 256, Chunk: 256, Lanes: 1}, oneByOne(questions)...)
	for _, cfg := range []Config{{Rows: 64, Chunk: 40, Lanes: 3}, {Rows: 128, Chunk: 128, Lanes: 2, Drafts: 8}, {Rows: 32, Chunk: 32, Lanes: 1, Drafts: 4}} {
		got, stats := answerIn(t, m, class, cfg, questions)
		for i := range want {
			if !slices.Equal(got[i], want[i]) {
				t.Errorf("%+v: session %d: got %v, alone %v", cfg, i, got[i], want[i])
			}
		}
		if cfg.Drafts > 0 && (stats.Accepted == 0 || stats.Drafted == stats.Accepted) {
			t.Errorf("%+v: %d of %d guesses held", cfg, stats.Accepted, stats.Drafted)
		}
	}
	if plain, _ := answerIn(t, m, compute.KVClass{}, Config{Rows: 256, Chunk: 256, Lanes: 1}, questions[7:]); slices.Equal(plain[0], want[7]) {
		t.Error("2 bits answer as float32 does: nothing was tested")
	}
}

// oneByOne makes each question a wave of its own.
func oneByOne(questions []question) (waves [][]question) {
	for i := range questions {
		waves = append(waves, questions[i:i+1])
	}
	return waves
}

// TestALongPromptOfTheRealModel: one that fills the context is computed in chunks
// beside sessions that decode: they go on all the while.
func TestALongPromptOfTheRealModel(t *testing.T) {
	m, err := library.Library{}.Open(library.Default)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	long := make([]int32, m.Spec.Context-8)
	for i := range long {
		long[i] = int32(i*i%(m.Spec.Vocab-10)) + 5
	}
	questions := []question{{prompt: long, spec: sample.Spec{MaxTokens: 4, IgnoreEOS: true}}}
	for i := range 4 {
		questions = append(questions, question{prompt: long[i : i+9], spec: sample.Spec{MaxTokens: 32, IgnoreEOS: true, Seed: uint64(i), Temperature: 1}})
	}
	together, got := answer(t, m, Config{Rows: 16, Chunk: 16, Lanes: 1}, questions)
	if least := slices.Min(got.before[1:]); least < 8 {
		t.Errorf("before the first id of the long prompt, the others had %v", got.before[1:])
	}
	alone, _ := answer(t, m, Config{Rows: 512, Chunk: 512, Lanes: 1}, oneByOne(questions)...)
	for i := range questions {
		if !slices.Equal(together[i], alone[i]) {
			t.Errorf("session %d: got %v, alone %v", i, together[i], alone[i])
		}
	}
}
