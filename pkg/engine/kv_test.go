package engine_test

import (
	"errors"
	"math"
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

// TestKVClassesAnswer: in every class an answer that is replayed as a prompt, cut
// in any way, gives the same logits and the ids that were drawn; no two classes
// give the same logits.
func TestKVClassesAnswer(t *testing.T) {
	seen := map[uint32]compute.KVClass{}
	for _, class := range []compute.KVClass{{}, {Bits: 16}, {Bits: 8, Group: 32}, {Bits: 4, Group: 32, Recent: 64}, {Bits: 3, Group: 32, Recent: 64}, {Bits: 3, Group: 32, Recent: 64, Upper: 4, Far: 128}} {
		ids := slices.Repeat(hello, 24) // more than four pages
		answer, _ := newRig(t, engine.Config{KV: class}).generate(sample.Spec{MaxTokens: 12, IgnoreEOS: true}, ids)
		ids = append(ids, answer...)
		whole := logitsOf(t, class, ids, 64)
		for _, chunk := range []int{1, 13} {
			if !slices.EqualFunc(logitsOf(t, class, ids, chunk), whole, slices.Equal) {
				t.Errorf("%s: in parts of %d the logits are others", class, chunk)
			}
		}
		for i, id := range answer {
			row := whole[len(ids)-len(answer)+i-1]
			if best := int32(slices.Index(row, slices.Max(row))); best != id {
				t.Errorf("%s: replayed, id %d of the answer is %d, was %d", class, i, best, id)
			}
		}
		mark := math.Float32bits(whole[len(ids)-1][0])
		if other, ok := seen[mark]; ok {
			t.Errorf("%s and %s give the same logits", class, other)
		}
		seen[mark] = class
	}
}

// logitsOf returns the logits of all rows of ids, fed in parts of chunk.
func logitsOf(t *testing.T, class compute.KVClass, ids []int32, chunk int) (out [][]float32) {
	t.Helper()
	r := newRig(t, engine.Config{KV: class})
	ops := []frame.Op{{Open: &frame.Open{Attempt: 1, Sampling: sample.Spec{MaxTokens: 1}}}}
	for at := 0; at < len(ids); at += chunk {
		n := min(chunk, len(ids)-at)
		res, err := r.local.Step(ops, []frame.Span{{
			Attempt: 1, Start: int32(at), Tokens: ids[at : at+n], Output: frame.OutputLogits, Drafted: uint8(n - 1),
		}})
		if err != nil {
			t.Fatal(err)
		}
		if why := res.Sampled[0].Err; why != "" {
			t.Fatal(why)
		}
		ops = nil
		out = slices.AppendSeq(out, slices.Chunk(slices.Clone(res.Sampled[0].Logits), len(res.Sampled[0].Logits)/n))
	}
	return out
}

// TestGuessesLeaveNoTrace: rows that are taken back, at the borders of pages too,
// leave the logits of an undisturbed run, where pages step down as well.
func TestGuessesLeaveNoTrace(t *testing.T) {
	class := compute.KVClass{Bits: 2, Group: 32, Recent: 64, Upper: 4, Far: 128}
	ids := slices.Repeat(hello, 28)
	want := logitsOf(t, class, ids, 64)
	r := newRig(t, engine.Config{KV: class})
	ops := []frame.Op{{Open: &frame.Open{Attempt: 1, Sampling: sample.Spec{MaxTokens: 1}}}}
	for at := 0; at < len(ids); {
		n, guesses := min(53, len(ids)-at), 9 // wrong ones behind those that stay
		tokens := append(slices.Clone(ids[at:at+n-1]), slices.Repeat([]int32{5}, guesses)...)
		tokens = slices.Insert(tokens, n-1, ids[at+n-1])
		if at+len(tokens) > 512 {
			tokens = tokens[:n]
		}
		back := len(tokens) - n
		if n > 3 { // and a right one, which goes too
			back++
		}
		res, err := r.local.Step(ops, []frame.Span{{
			Attempt: 1, Start: int32(at), Tokens: tokens, Output: frame.OutputLogits, Drafted: uint8(len(tokens) - 1),
		}})
		if err != nil {
			t.Fatal(err)
		}
		if why := res.Sampled[0].Err; why != "" {
			t.Fatal(why)
		}
		at += len(tokens) - back
		width := len(res.Sampled[0].Logits) / len(tokens)
		for i := range n {
			if row := at - (len(tokens) - back) + i; !slices.Equal(res.Sampled[0].Logits[i*width:(i+1)*width], want[row]) {
				t.Fatalf("position %d has other logits", row)
			}
		}
		ops = []frame.Op{{Truncate: &frame.Truncate{Len: int32(at)}}}
	}
}

// TestKVClassesAreRefused where a model or a device cannot have them.
func TestKVClassesAreRefused(t *testing.T) {
	be, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer be.Close()
	biased := filepath.Join(golden.Dir(t), "models", "qwen2", "model-f16.gguf")
	for name, c := range map[string]struct {
		model string
		class compute.KVClass
		be    compute.Backend
		want  error
	}{
		"groups wider than heads": {"tiny", compute.KVClass{Bits: 4, Group: 128, Recent: 64}, be, compute.ErrKVClass},
		"no such bits":            {"tiny", compute.KVClass{Bits: 5, Group: 32}, be, compute.ErrKVClass},
		"few bits for biases":     {biased, compute.KVClass{Bits: 4, Group: 32, Recent: 64}, be, compute.ErrKVClass},
		"no kernels":              {"tiny", compute.KVClass{Bits: 8, Group: 32}, packless{be}, compute.ErrUnsupported},
		"float32 needs none":      {"tiny", compute.KVClass{}, packless{be}, nil},
	} {
		m, err := library.Library{}.Open(c.model)
		if err != nil {
			t.Fatal(err)
		}
		st, err := engine.Open(c.be, m.Arch, m.Source, m.Spec, engine.Config{
			Epoch: 1, Part: model.Whole(m.Spec), Pages: 1, Slots: 1, Rows: 1, Context: 64, KV: c.class,
		})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err == nil {
			err = st.Close()
		} else {
			err = nil
		}
		if err := errors.Join(err, m.Close()); err != nil {
			t.Error(err)
		}
	}
}

// packless is a device without kernels for packed caches.
type packless struct{ compute.Backend }

func (p packless) Info() compute.Info {
	info := p.Backend.Info()
	info.Lacks = compute.FeaturePackedKV
	return info
}
