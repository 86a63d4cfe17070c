package engine

import (
	"errors"
	"slices"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// result samples the spans of a frame on the last stage, in order.
func (s *Stage) result(w *work, notFinite []int32) *frame.Result {
	f := w.frame
	s.applyOps(f.Ops)
	r := w.outcome.begin(f, w.timings)
	row, rest := 0, s.choices(w)
	for i := range f.Spans {
		span := &f.Spans[i]
		var mine choices
		if wantsLogits(span.Output) {
			mine = rest.take(int(span.Drafted) + 1)
		}
		bad := slices.ContainsFunc(notFinite, func(b int32) bool {
			return int(b) >= row && int(b) < row+len(span.Tokens)
		})
		from := row
		row += len(span.Tokens)
		ses := s.sessions[span.Slot]
		var out frame.Sampled
		var ok bool
		if ses.pool != nil && ses.failed == "" && !bad {
			out, ok = s.poolSpan(span, ses, w.hidden[from*s.spec.Hidden:])
		} else {
			out, ok = s.sampleSpan(w, span, mine, bad)
		}
		if ok {
			r.Sampled = append(r.Sampled, out)
		}
	}
	return r
}

// applyOps follows the session operations as far as sampling needs them.
func (s *Stage) applyOps(ops []frame.Op) {
	for i := range ops {
		switch op := &ops[i]; {
		case op.Open != nil:
			ses := newSession(op.Open, s.spec)
			if s.cfg.Part.Head {
				ses.constrain(&s.automata)
			}
			s.sessions[op.Open.Slot] = ses
		case op.Truncate != nil:
			if ses := s.sessions[op.Truncate.Slot]; ses != nil {
				ses.truncate(int(op.Truncate.Len))
			}
		case op.Close != nil:
			delete(s.sessions, op.Close.Slot)
		}
	}
}

// sampleSpan takes a span's ids into its session's history and samples from its
// logits. ok is false where there is nothing to say.
func (s *Stage) sampleSpan(w *work, span *frame.Span, from choices, bad bool) (out frame.Sampled, ok bool) {
	ses := s.sessions[span.Slot]
	out = frame.Sampled{Slot: span.Slot, Attempt: span.Attempt, Position: span.Start + int32(len(span.Tokens)-int(span.Drafted))}
	if bad && ses.failed == "" {
		ses.failed = errNumeric.Error()
	}
	if ses.failed != "" {
		out.Err = ses.failed
		return out, true
	}
	first := len(span.Tokens) - int(span.Drafted)
	for _, id := range span.Tokens[:first] {
		ses.accept(id)
	}
	if ses.failed != "" { // an id of the answer is none of the grammar
		out.Err = ses.failed
		return out, true
	}
	switch span.Output {
	case frame.OutputNone:
		return out, false
	case frame.OutputLogits:
		out.Logits = from.values
		return out, true
	}
	s.verify(&w.outcome, ses, span.Tokens[first:], from, &out)
	return out, true
}

// verify samples an id after the accepted ids and after each draft, as long as
// the drafts are what was sampled: the target's own sample always stands, so
// drafts never change the answer.
func (s *Stage) verify(o *outcome, ses *session, drafts []int32, from choices, out *frame.Sampled) {
	for i := range len(drafts) + 1 {
		c, fin, err := ses.pick(from.take(1))
		if err != nil {
			ses.failed = err.Error()
			if errors.Is(err, sample.ErrNotFinite) {
				ses.failed = errNumeric.Error()
			}
			out.Err = ses.failed
			return
		}
		out.IDs = o.addID(out.IDs, c.ID)
		if ses.open.Sampling.LogProbs {
			out.LogProbs = o.addLogProb(out.LogProbs, &c)
		}
		out.Finish = fin
		if fin != frame.FinishNone || i == len(drafts) || drafts[i] != c.ID {
			return
		}
		ses.accept(c.ID)
	}
}
