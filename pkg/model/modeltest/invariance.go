package modeltest

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// Invariance checks law 1 of the architecture on the CPU backend: for the same
// ids the logits have the same bits whatever the number of stages, the chunks of
// the prefill, the company in the batch, the instruction set and the threads.
func Invariance(t *testing.T, c Case, levels []quant.Level) {
	m := c.Open(t)
	var g struct {
		Prompts []prompt `json:"prompts"`
	}
	golden.JSON(t, c.Golden, &g)
	ids := g.Prompts[len(g.Prompts)-1].IDs
	one := setup{cpu: cpu.Config{Threads: 1, Level: &levels[0]}, stages: 1, rows: 256, slots: 9}
	want := logitsOf(t, pipeline(t, m, one), 0, ids, len(ids))

	for _, stages := range stageCounts(m) {
		for _, level := range levels {
			s := one
			s.stages, s.cpu.Level, s.cpu.Threads = stages, &level, 1+stages%2
			name := fmt.Sprintf("%d stages on %v", stages, level)
			l := pipeline(t, m, s)
			for _, chunk := range []int{1, 7, 64, len(ids)} {
				if level == quant.Portable && chunk == 1 && stages > 1 {
					continue // portable code is slow, and this adds nothing to chunks of 7
				}
				sameBits(t, fmt.Sprintf("%s, chunks of %d", name, chunk), want, logitsOf(t, l, 0, ids, chunk))
				closeSlot(t, l, 0)
			}
			sameBits(t, name+", in a batch of 8", want, inCompany(t, l, ids))
		}
	}
}

// stageCounts are 1, 2, 3 and as many stages as layers.
func stageCounts(m *library.Model) []int {
	counts := []int{1}
	for _, n := range []int{2, 3, m.Spec.Layers} {
		if n <= m.Spec.Layers && n > counts[len(counts)-1] {
			counts = append(counts, n)
		}
	}
	return counts
}

// inCompany computes ids in a batch with seven other sessions at other
// positions, the last id as a decode row among theirs.
func inCompany(tb testing.TB, l *engine.Local, ids []int32) []float32 {
	tb.Helper()
	var ops []frame.Op
	for slot := range frame.Slot(8) {
		ops = append(ops, frame.Op{Open: &frame.Open{Slot: slot, Attempt: 1}})
	}
	at := func(slot frame.Slot) int { return 3 + 5*int(slot) } // prefilled ids of each session
	const mine = frame.Slot(4)
	prefill := func(slot frame.Slot) []int32 {
		if slot == mine {
			return ids[:len(ids)-1]
		}
		return ids[int(slot) : int(slot)+at(slot)]
	}
	var first []frame.Span
	for slot := range frame.Slot(8) {
		first = append(first, frame.Span{Slot: slot, Attempt: 1, Tokens: prefill(slot)})
	}
	if _, err := l.Step(ops, first[:mine]); err != nil {
		tb.Fatal(err)
	}
	if _, err := l.Step(nil, first[mine:]); err != nil {
		tb.Fatal(err)
	}
	var decode []frame.Span
	for slot := range frame.Slot(8) {
		span := frame.Span{Slot: slot, Attempt: 1, Start: int32(len(prefill(slot))), Tokens: []int32{ids[0]}}
		if slot == mine {
			span.Tokens, span.Output = ids[len(ids)-1:], frame.OutputLogits
		}
		decode = append(decode, span)
	}
	r, err := l.Step(nil, decode)
	if err != nil {
		tb.Fatal(err)
	}
	if len(r.Sampled) != 1 {
		tb.Fatalf("result %+v", r.Sampled)
	}
	logits := slices.Clone(r.Sampled[0].Logits)
	for slot := range frame.Slot(8) {
		closeSlot(tb, l, slot)
	}
	return logits
}

// sameBits fails the test at the first logit whose bits differ.
func sameBits(t *testing.T, name string, want, got []float32) {
	t.Helper()
	if len(want) != len(got) {
		t.Errorf("%s: %d logits, want %d", name, len(got), len(want))
		return
	}
	for i := range want {
		if math.Float32bits(want[i]) != math.Float32bits(got[i]) {
			t.Errorf("%s: logit %d is %v, want %v", name, i, got[i], want[i])
			return
		}
	}
}
