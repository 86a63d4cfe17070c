package modeltest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// deviceMax bounds the difference of a device that computes in float32 from the
// framework's float32.
const deviceMax = 1e-3

// Device checks a device other than the CPU with a model: the golden, and that for
// the same ids the logits have the same bits in one, two and three stages, in
// chunks of 1, 8 and 64 and all at once, and in a batch of eight sessions.
func Device(t *testing.T, c Case, backend func(testing.TB) compute.Backend) {
	m := c.Open(t)
	one := onDevice(t, m, 1, compute.KVClass{}, backend)
	checkGolden(t, one, c, deviceMax, 1-1e-6)
	var g struct {
		Prompts []prompt `json:"prompts"`
	}
	golden.JSON(t, c.Golden, &g)
	ids := g.Prompts[len(g.Prompts)-1].IDs
	want := logitsOf(t, one, 0, ids, len(ids))
	closeSlot(t, one, 0)
	for stages := 1; stages <= min(3, m.Spec.Layers); stages++ {
		l := one
		if stages > 1 {
			l = onDevice(t, m, stages, compute.KVClass{}, backend)
		}
		for _, chunk := range []int{1, 8, 64} {
			sameBits(t, fmt.Sprintf("%d stages, chunks of %d", stages, chunk), want, logitsOf(t, l, 0, ids, chunk))
			closeSlot(t, l, 0)
		}
		sameBits(t, fmt.Sprintf("%d stages, in a batch of 8", stages), want, inCompany(t, l, ids))
	}
	alone := answerOf(t, one, ids, sample.Spec{MaxTokens: 24})
	if beside := answerOf(t, one, ids, sample.Spec{MaxTokens: 24, LogProbs: true}); !slices.Equal(alone, beside) {
		t.Errorf("ids %v picked from logits by the device, %v where the logits were read", alone, beside)
	}
}

// DeviceKV checks a device other than the CPU with a model whose keys and values
// are stored in a class: for the same ids, more than three pages of them, the logits
// have the same bits in chunks and in two stages, and an answer that is replayed as a
// prompt has the ids that were drawn.
func DeviceKV(t *testing.T, c Case, class compute.KVClass, backend func(testing.TB) compute.Backend) {
	m := c.Open(t)
	one := onDevice(t, m, 1, class, backend)
	var ids []int32
	for len(ids) < 3*compute.PageTokens+20 {
		ids = append(ids, int32((len(ids)*len(ids)*31+len(ids)*7)%m.Spec.Vocab))
	}
	answer := answerOf(t, one, ids, sample.Spec{MaxTokens: 8, IgnoreEOS: true})
	closeSlot(t, one, 0)
	replayed := append(slices.Clone(ids), answer...)
	last := len(replayed) - 1
	want := logitsOf(t, one, 0, replayed[:last], last)
	closeSlot(t, one, 0)
	if got := argmax(want); got != replayed[last] {
		t.Errorf("%s: replayed, the last id of the answer is %d, was %d", class, got, replayed[last])
	}
	for _, chunk := range []int{37, 64} {
		sameBits(t, fmt.Sprintf("%s: chunks of %d", class, chunk), want, logitsOf(t, one, 0, replayed[:last], chunk))
		closeSlot(t, one, 0)
	}
	two := onDevice(t, m, 2, class, backend)
	sameBits(t, fmt.Sprintf("%s: two stages, chunks of 50", class), want, logitsOf(t, two, 0, replayed[:last], 50))
}

// answerOf returns the ids of an answer in slot 0.
func answerOf(tb testing.TB, l *engine.Local, prompt []int32, spec sample.Spec) []int32 {
	tb.Helper()
	var ids []int32
	for s, err := range l.Generate(tb.Context(), &frame.Open{Sampling: spec}, prompt) {
		if err != nil {
			tb.Fatal(err)
		}
		ids = append(ids, s.IDs...)
	}
	return ids
}

// onDevice loads a model split over stages of one device.
func onDevice(tb testing.TB, m *library.Model, stages int, class compute.KVClass, backend func(testing.TB) compute.Backend) *engine.Local {
	tb.Helper()
	const context, slots = 512, 9
	be := backend(tb)
	tb.Cleanup(func() { be.Close() })
	var parts []*engine.Stage
	for i := range stages {
		first, end := i*m.Spec.Layers/stages, (i+1)*m.Spec.Layers/stages
		st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
			Epoch: 1, Stage: uint32(i),
			Part:  model.Part{First: first, End: end, Embed: first == 0, Head: end == m.Spec.Layers},
			Pages: slots * context / 64, Slots: slots, Rows: 256, Context: min(context, m.Spec.Context), KV: class,
		})
		if err != nil {
			tb.Fatal(err)
		}
		parts = append(parts, st)
	}
	return engine.NewLocal(parts...)
}

// Agreement decodes SmolLM2's golden answers, over and over from later prompts'
// ids, on a device and in the CPU's reference mode, fed the same ids, and fails
// when the first choice differs in more than one of 200 positions. It skips
// without the file that `make model` fetches.
func Agreement(t *testing.T, positions int, backend func(testing.TB) compute.Backend) {
	path := filepath.Join(golden.Root(), ".cache", "models", "smollm2.gguf")
	if _, err := os.Stat(path); err != nil {
		t.Skip("run `make model` to fetch the model")
	}
	m := open(t, path)
	device := onDevice(t, m, 1, compute.KVClass{}, backend)
	reference := pipeline(t, m, setup{cpu: cpu.Config{Reference: true}, stages: 1, rows: 256, slots: 9})
	fast := pipeline(t, m, setup{stages: 1, rows: 256, slots: 9})
	const context = 250 // positions of a session
	var other, quick, done int
	next := int32(1)
	for session := 0; done < positions; session++ {
		op := []frame.Op{{Open: &frame.Open{Slot: 0, Attempt: uint32(session) + 1}}}
		for at := range context {
			span := frame.Span{Attempt: uint32(session) + 1, Start: int32(at), Tokens: []int32{next}, Output: frame.OutputLogits}
			want := argmax(step(t, reference, op, span))
			if argmax(step(t, device, op, span)) != want {
				other++
			}
			if argmax(step(t, fast, op, span)) != want {
				quick++
			}
			op, next = nil, want
			if at%50 == 0 { // keep the answers from going in circles
				next = int32((session*7919 + at*104729) % m.Spec.Vocab)
			}
			if done++; done == positions {
				break
			}
		}
		for _, l := range []*engine.Local{device, reference, fast} {
			closeSlot(t, l, 0)
		}
	}
	t.Logf("%d positions: the device chooses as the reference in %.2f %%, the CPU's fast mode in %.2f %%", done,
		100-100*float64(other)/float64(done), 100-100*float64(quick)/float64(done))
	if 200*other > done {
		t.Errorf("%d of %d first choices differ from the reference", other, done)
	}
}
