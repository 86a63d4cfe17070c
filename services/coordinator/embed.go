package coordinator

import (
	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
)

// Requests that want no answer: the ids of their prompt, or its embedding. They
// come over the relay like all others and end with one Complete.

// checkPooling refuses what an embedding cannot honour, by name.
func (m *Model) checkPooling(g *pb.Generation) error {
	switch {
	case g.GetPooling() == pb.Pooling_POOLING_OWN && m.Pooling.Refused != "":
		return unsupported("pooling", "The model's own pooling is %s, which is not computed: name mean, last or cls.", m.Pooling.Refused)
	case g.GetPooling() < 0 || g.GetPooling() > pb.Pooling_POOLING_OWN:
		return unsupported("pooling", "Pooling %d is not known.", g.GetPooling())
	case g.GetPooling() != 0 && len(g.GetStop()) > 0:
		return invalid("stop", "An embedding has no stop strings.")
	case g.GetPooling() != 0 && len(g.GetResumption().GetCommittedIds()) > 0:
		return invalid("resumption", "An embedding is not resumed.")
	}
	return nil
}

// poolingOf returns how the hidden states of a request's prompt become one vector.
func (m *Model) poolingOf(g *pb.Generation) frame.Pooling {
	if g.GetPooling() == pb.Pooling_POOLING_OWN {
		return max(m.Pooling.Kind, frame.PoolingMean)
	}
	return frame.Pooling(g.GetPooling())
}

// embedding gives a session the embedding of its prompt, which is its end.
func (o *owner) embedding(s *session, r *frame.Sampled) {
	if s.done {
		return
	}
	if len(r.Pooled) != o.c.deps.Model.Hidden {
		o.fail(s, later(generation.CodeInternal, "The pipeline sent an embedding of %d values.", len(r.Pooled)))
		return
	}
	s.first = o.now()
	s.last = s.first
	o.end(s, &pb.Event{Event: &pb.Event_Complete{Complete: &pb.Complete{
		FinishReason: generation.FinishLength, Usage: s.usage(), Timings: s.timings(), Embedding: r.Pooled,
	}}})
}

// tokenized ends a session that wants nothing but the ids of its prompt.
func (o *owner) tokenized(s *session) {
	serving := o.serving()
	if len(serving) == 0 { // it was lost since the request came in
		_, text := o.reason()
		o.fail(s, later(codeNoCapacity, "No answer is possible at the moment: %s.", text))
		return
	}
	o.accept(s, serving[0])
	o.end(s, &pb.Event{Event: &pb.Event_Complete{Complete: &pb.Complete{
		FinishReason: generation.FinishLength, Usage: s.usage(), Timings: s.timings(),
	}}})
}
