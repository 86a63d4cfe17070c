package shard

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/driver"
)

// newDrafter loads the built-in model as a draft model on a device that runs.
func newDrafter(t *testing.T, want *pb.Draft) (*drafter, *library.Model) {
	t.Helper()
	file, err := library.Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	be, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { be.Close() })
	dev := newDevice(0, Device{Backend: be}, telemetry.Nop(), slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- dev.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	want.Model = &pb.Model{Context: uint32(file.Spec.Context)}
	p := &pipeline{epoch: 1, plan: &pb.Pipeline{Stages: make([]*pb.Stage, 1)}, vocab: file.Spec.Vocab, draft: want, fuse: newFuse()}
	s := &Shard{deps: Deps{Load: loadEngine}}
	d, err := s.loadDraft(ctx, newStage(p, 0, dev), NewModel(file))
	if err != nil {
		t.Fatal(err)
	}
	return d, file
}

// goesOn is how the model itself goes on from ids.
func goesOn(t *testing.T, m *library.Model, spec sample.Spec, answer int, ids []int32, n int) []int32 {
	t.Helper()
	be, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer be.Close()
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{Part: model.Whole(m.Spec), Pages: 32, Slots: 1, Rows: 512, Context: m.Spec.Context})
	if err != nil {
		t.Fatal(err)
	}
	l := engine.NewLocal(st)
	defer l.Close()
	ops := []frame.Op{{Open: &frame.Open{Attempt: 1, Sampling: spec, AnswerStart: int32(answer)}}}
	span := frame.Span{Attempt: 1, Tokens: ids, Output: frame.OutputSample}
	var out []int32
	for range n {
		r, err := l.Step(ops, []frame.Span{span})
		if err != nil {
			t.Fatal(err)
		}
		out, ops = append(out, r.Sampled[0].IDs[0]), nil
		span.Start, span.Tokens = span.Start+int32(len(span.Tokens)), out[len(out)-1:]
	}
	return out
}

// TestDrafterGuessesAsTheModelGoesOn: what it guesses is what the model itself would
// have said, by the session's temperature and seed, after texts that turned out
// otherwise than it guessed too, and beside other sessions.
func TestDrafterGuessesAsTheModelGoesOn(t *testing.T) {
	d, m := newDrafter(t, &pb.Draft{Sessions: 2, Pages: 16, Rows: 40})
	prompt := []int32{1, 40, 300, 77, 12, 9, 400, 33}
	wishes := []driver.Wish{
		{Open: &frame.Open{Slot: 3, Attempt: 5, AnswerStart: 8}, IDs: prompt, Count: 5},
		{Open: &frame.Open{Slot: 1, Attempt: 6, AnswerStart: 8, Sampling: sample.Spec{Temperature: 0.9, Seed: 4, MaxTokens: 2, RepetitionPenalty: 1.2, PenaltyWindow: 64}}, IDs: prompt, Count: 3},
	}
	for round, held := range []int{0, 2, 3, 0} { // how many guesses hold
		for i := range wishes {
			w := &wishes[i]
			seated, ok := d.seat(*w)
			if !ok {
				t.Fatalf("round %d: session %d has no place", round, i)
			}
			got, _, err := d.guess(t.Context(), seated)
			d.places[seated.at].busy = false
			if err != nil {
				t.Fatal(err)
			}
			if want := goesOn(t, m, w.Open.Sampling, 8, w.IDs, w.Count); !slices.Equal(got, want) {
				t.Errorf("round %d: session %d: guessed %v, the model says %v", round, i, got, want)
			}
			w.IDs = append(slices.Clone(w.IDs), append(got[:held:held], (got[held%len(got)]+7)%int32(m.Spec.Vocab))...)
		}
	}
}

// TestDrafterCatchesUp: a text that is longer than a step comes with several wishes;
// meanwhile it guesses nothing.
func TestDrafterCatchesUp(t *testing.T) {
	d, m := newDrafter(t, &pb.Draft{Sessions: 2, Pages: 16, Rows: 40})
	ids := make([]int32, 100)
	for i := range ids {
		ids[i] = int32(i*i%500) + 5
	}
	w := driver.Wish{Open: &frame.Open{}, IDs: ids, Count: 4}
	for i := range 3 {
		seated, ok := d.seat(w)
		if !ok {
			t.Fatal("no place")
		}
		got, took, err := d.guess(t.Context(), seated)
		d.places[seated.at].busy = false
		if err != nil {
			t.Fatal(err)
		}
		if i < 2 && (len(got) > 0 || took != 0) {
			t.Fatalf("after %d rows of %d it guesses %v", 40*(i+1), len(ids), got)
		}
		if want := goesOn(t, m, sample.Spec{}, 100, ids, 4); i == 2 && (!slices.Equal(got, want) || took <= 0) {
			t.Errorf("guessed %v in %v each, the model says %v", got, took, want)
		}
	}
}

// TestDrafterSeats: there are places and pages for some sessions; what one leaves is
// another's.
func TestDrafterSeats(t *testing.T) {
	d, _ := newDrafter(t, &pb.Draft{Sessions: 2, Pages: 3, Rows: 40})
	wish := func(slot frame.Slot, n int) driver.Wish {
		return driver.Wish{Open: &frame.Open{Slot: slot, Attempt: 1}, IDs: slices.Repeat([]int32{9}, n), Count: 2}
	}
	seat := func(slot frame.Slot, n int, want bool) {
		t.Helper()
		seated, ok := d.seat(wish(slot, n))
		if ok != want {
			t.Fatalf("slot %d with %d ids: a place %v, want %v", slot, n, ok, want)
		}
		if !ok {
			return
		}
		if _, ok := d.seat(wish(slot, n)); ok {
			t.Fatal("a session that waits for guesses wishes again")
		}
		if _, _, err := d.guess(t.Context(), seated); err != nil {
			t.Fatal(err)
		}
		d.places[seated.at].busy = false
	}
	seat(0, 30, true)
	seat(1, 100, true)
	seat(2, 30, false) // no place
	seat(0, 63, false) // no page
	d.leave(1, 1)
	seat(2, 90, true)
	d.leave(0, 1)
	d.leave(2, 1)
	seat(3, 150, true)
	if used, _ := d.engine.Pages(); used != 1 {
		t.Errorf("the model holds %d pages, want one: of the 40 rows of the session that is there", used)
	}
}
