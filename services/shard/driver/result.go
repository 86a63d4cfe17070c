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
		s := c.session
		done := min(c.end, s.given)
		if s.ended || done <= s.told { // a session that began anew is told nothing twice
			continue
		}
		s.told = done
		out.Prefilled = append(out.Prefilled, Prefilled{
			Slot: s.open.Slot, Attempt: s.open.Attempt, Done: done, Total: s.given, Cached: s.cached,
		})
	}
	for i := range r.Sampled {
		if err := m.sampled(&fl, &r.Sampled[i]); err != nil {
			return err
		}
	}
	for _, a := range fl.asks {
		if s := a.session; !s.ended && s.awaiting {
			return fault("step %d sampled nothing for slot %d", fl.step, s.open.Slot)
		}
	}
	m.flight = slices.Delete(m.flight, 0, 1)
	if fl.decodes > 0 {
		m.decodes--
	}
	m.learn(&fl, r)
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
	i := slices.IndexFunc(fl.asks, func(a ask) bool { return a.session == s })
	if !s.awaiting || i < 0 {
		return fault("step %d sampled slot %d, which asked for nothing", fl.step, r.Slot)
	}
	drafts, by := fl.asks[i].drafts, &s.trust
	if fl.asks[i].model {
		by = &s.guesses.trust
	}
	switch {
	case int(r.Position) != len(s.ids):
		return fault("step %d sampled position %d of slot %d, expected %d", fl.step, r.Position, r.Slot, len(s.ids))
	case s.open.Pooling != frame.PoolingNone && (len(r.IDs) != 0 || r.Finish == frame.FinishNone):
		return fault("step %d sampled %d ids of slot %d, which wants an embedding", fl.step, len(r.IDs), r.Slot)
	case s.open.Pooling == frame.PoolingNone && len(r.IDs) == 0:
		return fault("step %d sampled no id of slot %d", fl.step, r.Slot)
	case len(r.IDs) > len(drafts)+1 || len(r.IDs) > 0 && !slices.Equal(r.IDs[:len(r.IDs)-1], drafts[:len(r.IDs)-1]):
		return fault("step %d sampled ids %v of slot %d, guessed were %v", fl.step, r.IDs, r.Slot, drafts)
	}
	s.awaiting = false
	s.ids = append(s.ids, r.IDs...)
	s.accepted(by, len(drafts), max(0, len(r.IDs)-1))
	m.stats.Accepted += max(0, len(r.IDs)-1)
	switch {
	case r.Finish != frame.FinishNone:
		m.end(s, ReasonFinished, "")
	case len(s.ids) > m.cfg.Context:
		m.end(s, ReasonContext, "")
	}
	return nil
}

// accepted takes in how many guesses held, of whom they came from.
func (s *session) accepted(by *trust, drafted, held int) {
	if drafted > 0 {
		s.sure += held
		by.note(drafted, held)
	}
}

// learn notes what a step took.
func (m *Machine) learn(fl *flight, r *frame.Result) {
	if !m.adapts() {
		return
	}
	m.pace.learn(fl, r, m.now)
	if fl.decodes == 0 {
		return
	}
	ids := 0
	for i := range r.Sampled {
		ids += len(r.Sampled[i].IDs)
	}
	each := float64(fl.decodeRows) / float64(fl.decodes) // rows a session, with its guesses
	streams := len(m.decoding())
	filling := slices.ContainsFunc(m.flight, func(f flight) bool { return len(f.chunks) > 0 })
	m.lanes.observe(m.now, ids, streams, filling || len(fl.chunks) > 0, func(lanes int) float64 {
		return m.pace.rate(max(1, streams), lanes, each)
	})
}
