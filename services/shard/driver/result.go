package driver

import (
	"slices"

	"github.com/shoal-llm/shoal/pkg/frame"
)

func (e Returned) apply(m *Machine, out *Output) error {
	r := e.Result
	oldest := m.step - uint64(len(m.flight)) // of those in flight
	switch {
	case r.Epoch != m.cfg.Epoch || r.Pipeline != m.cfg.Pipeline:
		return fault("result of pipeline %d, epoch %d", r.Pipeline, r.Epoch)
	case r.Step < oldest:
		return nil // a repeat
	case r.Step >= m.step:
		return fault("result of step %d, which was never sent", r.Step)
	case r.Step > oldest:
		return fault("result of step %d, expected %d", r.Step, oldest)
	}
	fl := m.flight[0]
	for _, c := range fl.chunks {
		if !c.session.ended {
			out.Prefilled = append(out.Prefilled, Prefilled{
				Slot: c.session.open.Slot, Attempt: c.session.open.Attempt, Done: c.end, Total: c.session.prompt,
			})
		}
	}
	for i := range r.Sampled {
		if err := m.sampled(&fl, &r.Sampled[i]); err != nil {
			return err
		}
	}
	for _, s := range fl.asks {
		if !s.ended && s.awaiting {
			return fault("step %d sampled nothing for slot %d", fl.step, s.open.Slot)
		}
	}
	m.flight = slices.Delete(m.flight, 0, 1)
	if fl.lane >= 0 {
		m.lanes[fl.lane].busy = 0
	}
	for _, s := range fl.closes {
		m.slots[s.open.Slot] = nil
		out.Closed = append(out.Closed, s.closed())
	}
	return nil
}

// sampled takes the outcome of one span. What is left of ended sessions is
// discarded.
func (m *Machine) sampled(fl *flight, r *frame.Sampled) error {
	s := m.live(r.Slot, r.Attempt)
	if s == nil {
		return nil
	}
	if r.Err != "" {
		m.end(s, ReasonFailed, r.Err)
		return nil
	}
	switch {
	case !s.awaiting || !slices.Contains(fl.asks, s):
		return fault("step %d sampled slot %d, which asked for nothing", fl.step, r.Slot)
	case int(r.Position) != len(s.ids):
		return fault("step %d sampled position %d of slot %d, expected %d", fl.step, r.Position, r.Slot, len(s.ids))
	case s.open.Pooling != frame.PoolingNone && (len(r.IDs) != 0 || r.Finish == frame.FinishNone):
		return fault("step %d sampled %d ids of slot %d, which wants an embedding", fl.step, len(r.IDs), r.Slot)
	case s.open.Pooling == frame.PoolingNone && len(r.IDs) != 1:
		return fault("step %d sampled %d ids of slot %d, expected one", fl.step, len(r.IDs), r.Slot)
	}
	s.awaiting = false
	s.ids = append(s.ids, r.IDs...)
	switch {
	case r.Finish != frame.FinishNone:
		m.end(s, ReasonFinished, "")
	case len(s.ids) > m.cfg.Context:
		m.end(s, ReasonContext, "")
	}
	return nil
}
