package engine_test

import (
	"math"
	"slices"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
)

// embed returns the embedding of ids, computed in chunks of n.
func (r *rig) embed(kind frame.Pooling, slot frame.Slot, ids []int32, n int) []float32 {
	r.t.Helper()
	ops := []frame.Op{{Open: &frame.Open{Slot: slot, Attempt: 3, Pooling: kind, AnswerStart: int32(len(ids))}}}
	for at := 0; at < len(ids); at += n {
		end := min(at+n, len(ids))
		span := frame.Span{Slot: slot, Attempt: 3, Start: int32(at), Tokens: ids[at:end]}
		if end == len(ids) {
			span.Output = frame.OutputPooled
		}
		res, err := r.local.Step(ops, []frame.Span{span})
		if err != nil {
			r.t.Fatal(err)
		}
		ops = nil
		if end < len(ids) {
			if len(res.Sampled) != 0 {
				r.t.Fatalf("a chunk in the middle gave %+v", res.Sampled)
			}
			continue
		}
		if _, err := r.local.Step([]frame.Op{{Close: &frame.Close{Slot: slot}}}, nil); err != nil {
			r.t.Fatal(err)
		}
		if s := res.Sampled[0]; s.Finish != frame.FinishStop || len(s.IDs) != 0 || s.Position != int32(len(ids)) {
			r.t.Errorf("an embedding ends as %+v", s)
		}
		return slices.Clone(res.Sampled[0].Pooled)
	}
	return nil
}

// TestEmbeddingsDoNotDependOnChunks also holds their length and their relation
// to each other: the mean of one position is the last.
func TestEmbeddingsDoNotDependOnChunks(t *testing.T) {
	r := newRig(t, engine.Config{})
	for _, kind := range []frame.Pooling{frame.PoolingMean, frame.PoolingLast, frame.PoolingFirst} {
		whole := r.embed(kind, 0, hello, 64)
		length := 0.0
		for _, v := range whole {
			length += float64(v) * float64(v)
		}
		if len(whole) != 256 || math.Abs(length-1) > 1e-6 {
			t.Errorf("pooling %d: %d values of length %v", kind, len(whole), math.Sqrt(length))
		}
		for _, n := range []int{1, 5, 11} {
			if got := r.embed(kind, 1, hello, n); !slices.Equal(got, whole) {
				t.Errorf("pooling %d in chunks of %d differs", kind, n)
			}
		}
		if other := r.embed(kind, 0, hello[:7], 64); slices.Equal(other, whole) != (kind == frame.PoolingFirst) { // what comes later is not seen
			t.Errorf("pooling %d: two texts have one embedding", kind)
		}
	}
	if !slices.Equal(r.embed(frame.PoolingMean, 0, hello[:1], 1), r.embed(frame.PoolingLast, 2, hello[:1], 1)) {
		t.Error("the mean of one position is not its state")
	}
	if !slices.Equal(r.embed(frame.PoolingFirst, 0, hello, 5), r.embed(frame.PoolingLast, 2, hello[:1], 1)) {
		t.Error("the first position is not itself")
	}
	if slices.Equal(r.embed(frame.PoolingMean, 0, hello, 64), r.embed(frame.PoolingLast, 0, hello, 64)) {
		t.Error("mean and last are the same")
	}
}

// TestEmbeddingsBesideAnswers puts both into one step: neither changes the other.
func TestEmbeddingsBesideAnswers(t *testing.T) {
	r := newRig(t, engine.Config{})
	alone := r.embed(frame.PoolingMean, 0, hello, 64)
	ops := []frame.Op{
		{Open: &frame.Open{Slot: 2, Attempt: 5, AnswerStart: int32(len(hello))}},
		{Open: &frame.Open{Slot: 1, Attempt: 4, Pooling: frame.PoolingMean, AnswerStart: int32(len(hello))}},
	}
	res, err := r.local.Step(ops, []frame.Span{
		{Slot: 2, Attempt: 5, Tokens: hello, Output: frame.OutputSample},
		{Slot: 1, Attempt: 4, Tokens: hello, Output: frame.OutputPooled},
	})
	if err != nil || len(res.Sampled) != 2 {
		t.Fatalf("%+v, %v", res, err)
	}
	if len(res.Sampled[0].IDs) != 1 || !slices.Equal(res.Sampled[1].Pooled, alone) {
		t.Errorf("side by side: %+v", res.Sampled)
	}
}

// TestEmbeddingIsWhatTheHeadReads multiplies the last position's embedding by the
// head: that gives the direction of its logits.
func TestEmbeddingIsWhatTheHeadReads(t *testing.T) {
	r := newRig(t, engine.Config{})
	v := r.embed(frame.PoolingLast, 0, hello, 64)
	open := []frame.Op{{Open: &frame.Open{Slot: 1, Attempt: 9, AnswerStart: int32(len(hello))}}}
	res, err := r.local.Step(open, []frame.Span{{Slot: 1, Attempt: 9, Tokens: hello, Output: frame.OutputLogits}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := library.Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	head, ok := m.Source.Tensor("output.weight")
	if !ok {
		head, _ = m.Source.Tensor("token_embd.weight")
	}
	row := make([]float32, head.Cols)
	size, err := head.Format.RowBytes(head.Cols)
	if err != nil {
		t.Fatal(err)
	}
	var dot, ours, theirs float64
	for i, logit := range res.Sampled[0].Logits {
		head.Format.Decode(row, head.Data[i*size:(i+1)*size])
		x := 0.0
		for j, w := range row {
			x += float64(w) * float64(v[j])
		}
		dot, ours, theirs = dot+x*float64(logit), ours+x*x, theirs+float64(logit)*float64(logit)
	}
	if cos := dot / math.Sqrt(ours*theirs); cos < 0.9999 { // the head rounds its activations to int8
		t.Errorf("the cosine between the head's product and the logits is %v", cos)
	}
}
