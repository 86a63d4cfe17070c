package engine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// openLong opens the tiny model for sessions of more positions than it was
// made for.
func openLong(t *testing.T, class compute.KVClass, slots, pages, context int) *engine.Stage {
	t.Helper()
	m, err := library.Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	be, err := cpu.Open(cpu.Config{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { be.Close(); m.Close() })
	spec := m.Spec
	spec.Context = context
	st, err := engine.Open(be, m.Arch, m.Source, spec, engine.Config{
		Epoch: 1, Part: model.Whole(m.Spec), Pages: pages, Slots: slots, Rows: 1024, Context: context, KV: class,
	})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// thinned are classes that thin, one of each way to store.
var thinned = []compute.KVClass{
	{Bits: 16, Ratio: 4, Older: 1024},
	{Bits: 8, Group: 32, Ratio: 8, Older: 1024},
	{Bits: 3, Group: 32, Recent: 128, Upper: 4, Far: 1024, Ratio: 4, Older: 1024},
}

// TestThinningKeepsLawOne: however the rows of a session that forgets are cut, with
// whom it shares steps and whichever pages it gets, the logits of its rows are the
// same; and they are others than of one that keeps all, from where it forgets on.
func TestThinningKeepsLawOne(t *testing.T) {
	const n = 3 * 1024
	ids := make([]int32, n+70)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range ids {
		ids[i] = 10 + rng.Int32N(300)
	}
	for _, class := range thinned {
		want := longLogits(t, class, ids, 1024, nil, false)
		whole := class
		whole.Ratio, whole.Older = 0, 0
		all := longLogits(t, whole, ids, 1024, nil, false)
		for position, logits := range want {
			if same := slices.Equal(logits, all[position]); same != (position < 2048) {
				t.Errorf("%s: position %d is as if all were kept: %v", class, position, same)
			}
		}
		got := longLogits(t, class, ids, 100, ids[500:], true)
		for position, logits := range want {
			if !slices.Equal(got[position], logits) {
				t.Errorf("%s: cut and placed in another way, position %d has other logits", class, position)
			}
		}
	}
}

// longLogits feeds ids in parts and returns the logits of some positions. Another
// session goes before each part with one of its own. Guesses are rows that are taken
// back and computed again as they should be.
func longLogits(t *testing.T, class compute.KVClass, ids []int32, chunk int, other []int32, guesses bool) map[int][]float32 {
	t.Helper()
	l := engine.NewLocal(openLong(t, class, 2, 110, len(ids)))
	defer l.Close()
	step := func(ops []frame.Op, spans []frame.Span) []frame.Sampled {
		res, err := l.Step(ops, spans)
		if err != nil {
			t.Fatal(err)
		}
		return res.Sampled
	}
	out := map[int][]float32{}
	ops := []frame.Op{{Open: &frame.Open{Slot: 1, Attempt: 1, Sampling: sample.Spec{MaxTokens: 1}}}}
	if other != nil {
		ops = append(ops, frame.Op{Open: &frame.Open{Slot: 0, Attempt: 1, Sampling: sample.Spec{MaxTokens: 1}}})
	}
	at, sent := 0, 0
	for at < len(ids) {
		var spans []frame.Span
		if k := compute.KVClass.Cut(class, sent, min(200, len(other)-sent)); k > 0 {
			spans = append(spans, frame.Span{Slot: 0, Attempt: 1, Start: int32(sent), Tokens: other[sent : sent+k]})
			sent += k
		}
		k := class.Cut(at, min(chunk, len(ids)-at))
		if class.Ratio == 0 {
			k = min(chunk, 1024-at%1024, len(ids)-at)
		}
		if guesses && k > 9 && at%512 == 0 {
			wrong := append(slices.Clone(ids[at:at+k-9]), 5, 5, 5, 5, 5, 5, 5, 5, 5)
			step(ops, append(spans, frame.Span{Slot: 1, Attempt: 1, Start: int32(at), Tokens: wrong, Drafted: 9}))
			at += k - 9
			ops = []frame.Op{{Truncate: &frame.Truncate{Slot: 1, Len: int32(at)}}}
			continue
		}
		spans = append(spans, frame.Span{Slot: 1, Attempt: 1, Start: int32(at), Tokens: ids[at : at+k], Output: frame.OutputLogits})
		sampled := step(ops, spans)
		ops, at = nil, at+k
		if last := at - 1; at%1024 == 0 || at > 3*1024 && at == len(ids) {
			for _, s := range sampled {
				if s.Slot == 1 {
					out[last] = slices.Clone(s.Logits)
				}
			}
		}
	}
	return out
}

// TestThinningFreesPages: a session holds the pages that its class says, and not one
// more, and gives all back.
func TestThinningFreesPages(t *testing.T) {
	const n = 3300
	for _, class := range thinned[1:] {
		st := openLong(t, class, 1, class.Pages(n), n)
		l := engine.NewLocal(st)
		ops := []frame.Op{{Open: &frame.Open{Attempt: 1, Sampling: sample.Spec{MaxTokens: 1}}}}
		for at := 0; at < n; {
			k := class.Cut(at, min(500, n-at))
			if _, err := l.Step(ops, []frame.Span{{Attempt: 1, Start: int32(at), Tokens: make([]int32, k)}}); err != nil {
				t.Fatal(fmt.Errorf("%s at %d: %w", class, at, err))
			}
			ops, at = nil, at+k
			_, gone := class.Kept(class.Thinned(at - 1))
			if used, _ := st.Pages(); used != (at+63)/64-gone {
				t.Fatalf("%s: %d positions hold %d pages, want %d", class, at, used, (at+63)/64-gone)
			}
		}
		if _, err := l.Step([]frame.Op{{Close: &frame.Close{}}}, nil); err != nil {
			t.Fatal(err)
		}
		if used, _ := st.Pages(); used != 0 {
			t.Errorf("%s: %d pages are held when all is closed", class, used)
		}
	}
}

// TestThinningIsRefused where a model sees a window of positions, of which it needs all,
// and where no session gets long enough for an effect.
func TestThinningIsRefused(t *testing.T) {
	spec := model.Spec{Arch: "windowed", HeadDim: 64, KVHeads: 1, Window: 512, Context: 8192}
	for _, class := range thinned {
		if err := spec.CheckKV(class); !errors.Is(err, compute.ErrKVClass) {
			t.Errorf("%s: %v", class, err)
		}
		spec := spec
		if spec.Window, spec.Context = 0, 2048; !errors.Is(spec.CheckKV(class), compute.ErrKVClass) {
			t.Errorf("%s: contexts of %d positions never thin out", class, spec.Context)
		}
		if spec.Context++; spec.CheckKV(class) != nil {
			t.Errorf("%s: %v", class, spec.CheckKV(class))
		}
		spec.Window, class.Ratio, class.Older = 512, 0, 0
		if err := spec.CheckKV(class); err != nil {
			t.Errorf("%s: %v", class, err)
		}
	}
}
