package engine_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/kv"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// rig is the embedded model on one device.
type rig struct {
	t     *testing.T
	be    compute.Backend
	stage *engine.Stage
	local *engine.Local

	grammar []byte // of the sessions
}

func newRig(t *testing.T, cfg engine.Config) *rig {
	t.Helper()
	m, err := library.Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	be, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { be.Close(); m.Close() })
	cfg.Epoch, cfg.Pages, cfg.Slots, cfg.Rows, cfg.Context = 1, 16, 4, 64, 512
	if cfg.Part == (model.Part{}) {
		cfg.Part = model.Whole(m.Spec)
	}
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, be: be, stage: st, local: engine.NewLocal(st)}
}

// generate returns the ids of an answer and how it ended.
func (r *rig) generate(spec sample.Spec, prompt []int32) (ids []int32, fin frame.Finish) {
	r.t.Helper()
	for s, err := range r.local.Generate(context.Background(), &frame.Open{Attempt: 1, Sampling: spec, Grammar: r.grammar}, prompt) {
		if err != nil {
			r.t.Fatal(err)
		}
		ids, fin = append(ids, s.IDs...), s.Finish
	}
	return ids, fin
}

// hello is "Hello!" in the model's chat template.
var hello = []int32{1, 451, 266, 201, 1629, 3, 2, 201, 1, 709, 907, 201}

func TestGenerationEndsAsItsSpecSays(t *testing.T) {
	r := newRig(t, engine.Config{})
	whole, fin := r.generate(sample.Spec{MaxTokens: 40, Stop: []int32{2}}, hello)
	if fin != frame.FinishStop || whole[len(whole)-1] != 2 {
		t.Errorf("ended with %v after %v", fin, whole)
	}
	short, fin := r.generate(sample.Spec{MaxTokens: 3, Stop: []int32{2}}, hello)
	if fin != frame.FinishLength || !slices.Equal(short, whole[:3]) {
		t.Errorf("ended with %v after %v, want %v", fin, short, whole[:3])
	}
	on, fin := r.generate(sample.Spec{MaxTokens: 40, Stop: []int32{2}, IgnoreEOS: true}, hello)
	if fin != frame.FinishLength || len(on) != 40 || !slices.Equal(on[:len(whole)], whole) {
		t.Errorf("ended with %v after %d ids", fin, len(on))
	}
}

// TestDraftsNeverChangeTheAnswer checks drafts of every quality, at a
// temperature: what is accepted is what would have been sampled.
func TestDraftsNeverChangeTheAnswer(t *testing.T) {
	r := newRig(t, engine.Config{})
	spec := sample.Spec{Temperature: 0.9, Seed: 11, MaxTokens: 24, IgnoreEOS: true, RepetitionPenalty: 1.2, FrequencyPenalty: 0.3}
	want, _ := r.generate(spec, hello)
	for right := range 4 {
		got := r.drafted(spec, want, right)
		if !slices.Equal(got, want) {
			t.Errorf("with %d right drafts of 3 the answer is %v, want %v", right, got, want)
		}
	}
}

// drafted generates with three drafts a step, of which the first right are what
// the model will say.
func (r *rig) drafted(spec sample.Spec, want []int32, right int) (ids []int32) {
	r.t.Helper()
	slot := frame.Slot(1)
	ops := []frame.Op{{Open: &frame.Open{Slot: slot, Attempt: 7, Sampling: spec, Grammar: r.grammar, AnswerStart: int32(len(hello))}}}
	span := frame.Span{Slot: slot, Attempt: 7, Tokens: hello, Output: frame.OutputSample}
	for {
		res, err := r.local.Step(ops, []frame.Span{span})
		if err != nil {
			r.t.Fatal(err)
		}
		s := res.Sampled[0]
		if s.Position != int32(len(hello)+len(ids)) {
			r.t.Fatalf("ids for position %d after %d", s.Position, len(hello)+len(ids))
		}
		ids = append(ids, s.IDs...)
		ops = []frame.Op{{Truncate: &frame.Truncate{Slot: slot, Len: int32(len(hello) + len(ids) - 1)}}}
		if s.Finish != frame.FinishNone {
			_, err := r.local.Step([]frame.Op{{Close: &frame.Close{Slot: slot}}}, nil)
			if err != nil {
				r.t.Fatal(err)
			}
			return ids
		}
		span = frame.Span{Slot: slot, Attempt: 7, Start: int32(len(hello) + len(ids) - 1), Tokens: []int32{ids[len(ids)-1]}, Output: frame.OutputSample, Drafted: 3}
		for i := range 3 {
			draft := int32(5)
			if at := len(ids) + i; i < right && at < len(want) {
				draft = want[at]
			}
			span.Tokens = append(span.Tokens, draft)
		}
	}
}

// TestBadFramesChangeNothing sends what a faulty peer could send: it is refused
// before anything happens, and the stage goes on.
func TestBadFramesChangeNothing(t *testing.T) {
	r := newRig(t, engine.Config{})
	open := []frame.Op{{Open: &frame.Open{Attempt: 1}}}
	good := func() *frame.Frame {
		return &frame.Frame{Epoch: 1, Step: 1, Ops: open, Spans: []frame.Span{{Attempt: 1, Tokens: []int32{1, 2}, Output: frame.OutputSample}}}
	}
	for name, c := range map[string]struct {
		spoil func(*frame.Frame)
		want  error
	}{
		"id beyond the vocabulary":   {func(f *frame.Frame) { f.Spans[0].Tokens = []int32{4096} }, engine.ErrBadFrame},
		"pooled output of an answer": {func(f *frame.Frame) { f.Spans[0].Output = frame.OutputPooled }, engine.ErrBadFrame},
		"a sample of an embedding": {func(f *frame.Frame) {
			f.Ops = []frame.Op{{Open: &frame.Open{Attempt: 1, Pooling: frame.PoolingMean}}}
		}, engine.ErrBadFrame},
		"activations to the first stage": {func(f *frame.Frame) { f.Rows = make([]byte, 2048) }, engine.ErrBadFrame},
		"too many rows":                  {func(f *frame.Frame) { f.Spans[0].Tokens = make([]int32, 65) }, engine.ErrBadFrame},
		"another epoch":                  {func(f *frame.Frame) { f.Epoch = 2 }, kv.ErrEpoch},
		"a gap":                          {func(f *frame.Frame) { f.Step = 2 }, kv.ErrGap},
		"a session that is not open":     {func(f *frame.Frame) { f.Spans[0].Slot = 3 }, kv.ErrInvalid},
	} {
		f := good()
		c.spoil(f)
		if err := r.stage.Start(1, f); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
	}
	if err := r.stage.Start(9, good()); err != nil {
		t.Fatal(err)
	}
	if out, err := r.stage.Finish(<-r.be.Completions()); err != nil || len(out.Result.Sampled) != 1 {
		t.Errorf("after refusals: %+v, %v", out, err)
	}
	if err := r.stage.Start(10, good()); !errors.Is(err, kv.ErrRepeat) {
		t.Errorf("a repeated step: %v", err)
	}
}

// TestMiddleStageChecksItsRows holds the bytes of activations against the plan.
func TestMiddleStageChecksItsRows(t *testing.T) {
	r := newRig(t, engine.Config{Part: model.Part{First: 3, End: 5}})
	f := &frame.Frame{Epoch: 1, Step: 1, DType: frame.DTypeF32,
		Ops:   []frame.Op{{Open: &frame.Open{Attempt: 1}}},
		Spans: []frame.Span{{Attempt: 1, Tokens: []int32{1, 2}}}, Rows: make([]byte, 2*256*4-1)}
	if err := r.stage.Start(1, f); !errors.Is(err, engine.ErrBadFrame) {
		t.Errorf("short activations: %v", err)
	}
	f.Rows = make([]byte, 2*256*4)
	if err := r.stage.Start(1, f); err != nil {
		t.Fatal(err)
	}
	out, err := r.stage.Finish(<-r.be.Completions())
	if err != nil || out.Frame == nil || len(out.Frame.Rows) != len(f.Rows) || len(out.Frame.Timings) != 1 {
		t.Errorf("output %+v, %v", out, err)
	}
}

// TestNotFiniteFailsItsSessionOnly puts a NaN into one of two sessions' rows.
func TestNotFiniteFailsItsSessionOnly(t *testing.T) {
	r := newRig(t, engine.Config{Part: model.Part{First: 6, End: 8, Head: true}})
	rows := make([]byte, 2*256*4)
	for i := range 2 * 256 {
		rows[4*i+2], rows[4*i+3] = 0x80, 0x3f // 1.0
	}
	rows[2], rows[3] = 0xc0, 0x7f // NaN in the first row
	f := &frame.Frame{Epoch: 1, Step: 1, DType: frame.DTypeF32, Rows: rows,
		Ops: []frame.Op{{Open: &frame.Open{Slot: 0, Attempt: 1}}, {Open: &frame.Open{Slot: 1, Attempt: 2}}},
		Spans: []frame.Span{
			{Slot: 0, Attempt: 1, Tokens: []int32{1}, Output: frame.OutputSample},
			{Slot: 1, Attempt: 2, Tokens: []int32{1}, Output: frame.OutputSample},
		}}
	if err := r.stage.Start(1, f); err != nil {
		t.Fatal(err)
	}
	out, err := r.stage.Finish(<-r.be.Completions())
	if err != nil {
		t.Fatal(err)
	}
	s := out.Result.Sampled
	if len(s) != 2 || s[0].Err == "" || len(s[0].IDs) != 0 || s[1].Err != "" || len(s[1].IDs) != 1 {
		t.Errorf("results %+v", s)
	}
}

func TestCloseGivesTheDeviceBack(t *testing.T) {
	r := newRig(t, engine.Config{})
	if used := r.stage.Used(); used.Weights < 7<<20 || used.Total() > r.be.Used().Total() {
		t.Errorf("the stage holds %+v, the device %+v", used, r.be.Used())
	}
	if err := r.local.Close(); err != nil {
		t.Fatal(err)
	}
	if used := r.be.Used(); used.Weights != 0 || used.Caches != 0 {
		t.Errorf("%+v held after Close", used)
	}
}
