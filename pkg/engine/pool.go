package engine

import (
	"fmt"
	"math"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// pool is the embedding of a session in the making. Sums are taken in float64
// in order of positions, so that chunks and batches never change a bit.
type pool struct {
	kind frame.Pooling
	sum  []float64
	n    int
	row  []float64 // scratch: one normed row
}

func newPool(kind frame.Pooling, hidden int) *pool {
	return &pool{kind: kind, sum: make([]float64, hidden), row: make([]float64, hidden)}
}

// add takes in the hidden state of the next position; norm is the model's final
// norm. It reports whether the state is finite.
func (p *pool) add(row []float32, norm func(dst []float64, row []float32)) bool {
	norm(p.row, row)
	switch {
	case p.kind == frame.PoolingLast:
		clear(p.sum)
		p.n = 0
	case p.kind == frame.PoolingFirst && p.n > 0:
		return true
	}
	p.n++
	finite := true
	for i, v := range p.row {
		p.sum[i] += v
		finite = finite && !math.IsNaN(v) && !math.IsInf(v, 0)
	}
	return finite
}

// vector returns the embedding, scaled to unit length; one of length zero stays.
func (p *pool) vector() []float32 {
	length := 0.0
	for _, v := range p.sum {
		length += float64(v * v) // the conversion forbids fusing, which would change bits
	}
	if length = math.Sqrt(length); length == 0 {
		length = 1
	}
	out := make([]float32, len(p.sum))
	for i, v := range p.sum {
		out[i] = float32(v / length)
	}
	return out
}

// noteOps follows which slots make embeddings, which want no more than the largest
// logits, and which have pictures, ahead of the sessions themselves: what is read from the device is
// decided when a pass is submitted.
func (s *Stage) noteOps(ops []frame.Op) {
	for i := range ops {
		switch op := &ops[i]; {
		case op.Open != nil:
			s.pooling[op.Open.Slot] = op.Open.Pooling != frame.PoolingNone
			s.plain[op.Open.Slot] = op.Open.Sampling.Plain() && len(op.Open.Grammar) == 0
			if len(op.Open.Pictures) > 0 {
				s.pictures[op.Open.Slot] = op.Open.Pictures
			}
			if op.Open.Adapter != "" {
				s.adapters[op.Open.Slot] = s.numberOf(op.Open.Adapter)
			}
		case op.Close != nil:
			delete(s.pooling, op.Close.Slot)
			delete(s.plain, op.Close.Slot)
			delete(s.pictures, op.Close.Slot)
			delete(s.adapters, op.Close.Slot)
		}
	}
}

// pools reports whether a span of the frame belongs to an embedding.
func (s *Stage) pools(f *frame.Frame) bool {
	for i := range f.Spans {
		if s.pooling[f.Spans[i].Slot] {
			return true
		}
	}
	return false
}

// checkPools refuses frames that mix embeddings with what only answers have. An
// embedding needs the rows of all its positions, each once.
func (s *Stage) checkPools(f *frame.Frame) error {
	pooled := func(slot frame.Slot) bool {
		yes := s.pooling[slot]
		for i := range f.Ops {
			if o := f.Ops[i].Open; o != nil && o.Slot == slot {
				yes = o.Pooling != frame.PoolingNone
			}
		}
		return yes
	}
	for i := range f.Ops {
		a, t := f.Ops[i].Adopt, f.Ops[i].Truncate
		if a != nil && pooled(a.Slot) || t != nil && pooled(t.Slot) {
			return fmt.Errorf("%w: an embedding neither adopts nor truncates", ErrBadFrame)
		}
	}
	for i := range f.Spans {
		span := &f.Spans[i]
		if p := pooled(span.Slot); p && (wantsLogits(span.Output) || span.Drafted > 0) || !p && span.Output == frame.OutputPooled {
			return fmt.Errorf("%w: output %d of slot %d, pooled: %t", ErrBadFrame, span.Output, span.Slot, p)
		}
	}
	return nil
}

// poolSpan takes a span's hidden states into its session's embedding, and says
// what it is with the last of them. ok is false where there is nothing to say.
func (s *Stage) poolSpan(span *frame.Span, ses *session, hidden []float32) (out frame.Sampled, ok bool) {
	out = frame.Sampled{Slot: span.Slot, Attempt: span.Attempt, Position: span.Start + int32(len(span.Tokens))}
	width := s.spec.Hidden
	for i := range span.Tokens {
		if !ses.pool.add(hidden[i*width:(i+1)*width], s.net.FinalNorm) {
			ses.failed = errNumeric.Error()
			out.Err = ses.failed
			return out, true
		}
	}
	if span.Output != frame.OutputPooled {
		return out, false
	}
	out.Pooled, out.Finish = ses.pool.vector(), frame.FinishStop
	return out, true
}
