package driver

import (
	"slices"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/kv"
)

// form sends steps while there is something to send and room in flight.
func (m *Machine) form(out *Output) {
	m.dropUnopened(out)
	for len(m.flight) < m.cfg.InFlight {
		f, fl := m.next()
		if len(f.Ops) == 0 && len(f.Spans) == 0 {
			if !m.relieve() {
				return
			}
			m.dropUnopened(out)
			continue
		}
		if fl.lane >= 0 {
			m.lanes[fl.lane].busy = f.Step
		}
		m.step++
		m.flight = append(m.flight, fl)
		out.Send = append(out.Send, f)
	}
}

// dropUnopened frees the slots of ended sessions that no stage has heard of.
func (m *Machine) dropUnopened(out *Output) {
	kept := m.ending[:0]
	for _, s := range m.ending {
		if s.opened {
			kept = append(kept, s)
			continue
		}
		m.slots[s.open.Slot] = nil
		out.Closed = append(out.Closed, s.closed())
	}
	clear(m.ending[len(kept):])
	m.ending = kept
}

// relieve ends the youngest session that holds pages when nothing is in flight
// and nothing can be sent: then all wait for pages, and would for ever. It
// reports whether it did.
func (m *Machine) relieve() bool {
	if len(m.flight) > 0 || !slices.ContainsFunc(m.sessions, (*session).starved) {
		return false
	}
	for i := len(m.sessions) - 1; i >= 0; i-- {
		if s := m.sessions[i]; s.sent > 0 {
			m.end(s, ReasonFailed, "no free KV pages")
			return true
		}
	}
	return false
}

// step is one that is being formed.
type step struct {
	frame  *frame.Frame
	flight flight
	rows   int // that are left
}

// next forms a step: closes, decode rows of one lane, chunks of prompts.
func (m *Machine) next() (*frame.Frame, flight) {
	st := &step{
		frame:  &frame.Frame{Epoch: m.cfg.Epoch, Pipeline: m.cfg.Pipeline, Step: m.step},
		flight: flight{step: m.step, lane: -1},
		rows:   m.cfg.Rows,
	}
	m.addCloses(st)
	m.addDecodes(st)
	m.addChunks(st)
	return st.frame, st.flight
}

func (m *Machine) addCloses(st *step) {
	n := min(len(m.ending), frame.MaxOps/2) // the rest of the operations are opens
	for _, s := range m.ending[:n] {
		st.frame.Ops = append(st.frame.Ops, frame.Op{Close: &frame.Close{Slot: s.open.Slot}})
		st.flight.closes = append(st.flight.closes, s)
		m.free += pagesOf(s.sent) // operations come before spans
	}
	m.ending = append([]*session(nil), m.ending[n:]...)
}

// addDecodes adds the decode rows of the first lane, in turn, that has any and
// has none in flight.
func (m *Machine) addDecodes(st *step) {
	for i := range m.lanes {
		at := (m.nextLane + i) % len(m.lanes)
		if m.lanes[at].busy == 0 && m.addLane(st, at) {
			st.flight.lane = at
			m.nextLane = (at + 1) % len(m.lanes)
			return
		}
	}
}

func (m *Machine) addLane(st *step, at int) (any bool) {
	var members []*session
	for _, s := range m.sessions {
		if s.lane == at && s.decodable() {
			members = append(members, s)
		}
	}
	l := &m.lanes[at]
	first := l.turn
	l.turn = 0
	for i := range members {
		s := members[(first+i)%len(members)]
		if !st.room() {
			l.turn = (first + i) % len(members)
			return any
		}
		if m.fit(s, 1) == 1 {
			m.addSpan(st, s, 1, frame.OutputSample)
			any = true
		}
	}
	return any
}

// addChunks fills the step with prompts, one chunk a session, beginning where
// the last step ran out of rows.
func (m *Machine) addChunks(st *step) {
	n, first := len(m.sessions), m.nextFill
	for i := range n {
		at := (first + i) % n
		s := m.sessions[at]
		if !s.filling() {
			continue
		}
		if !st.room() {
			m.nextFill = at
			return
		}
		rows := m.fit(s, min(s.prompt-s.sent, m.cfg.Chunk, st.rows))
		if rows == 0 {
			continue
		}
		want := frame.OutputNone
		if s.sent+rows == s.prompt {
			want = s.output()
		}
		m.addSpan(st, s, rows, want)
		st.flight.chunks = append(st.flight.chunks, chunk{session: s, end: s.sent})
		m.nextFill = (at + 1) % n
	}
}

// room reports whether the step can take one more span.
func (st *step) room() bool {
	return st.rows > 0 && len(st.frame.Spans) < frame.MaxSpans && len(st.frame.Ops) < frame.MaxOps
}

// fit returns how many of want rows the free pages allow a session.
func (m *Machine) fit(s *session, want int) int {
	held := pagesOf(s.sent)
	return min(want, (held+m.free)*kv.PageTokens-s.sent)
}

// addSpan sends the session's next rows.
func (m *Machine) addSpan(st *step, s *session, rows int, want frame.Output) {
	if !s.opened {
		st.frame.Ops = append(st.frame.Ops, frame.Op{Open: s.open})
		s.opened = true
	}
	st.frame.Spans = append(st.frame.Spans, frame.Span{
		Slot: s.open.Slot, Attempt: s.open.Attempt, Start: int32(s.sent),
		Tokens: s.ids[s.sent : s.sent+rows : s.sent+rows], Output: want,
	})
	m.free -= pagesOf(s.sent+rows) - pagesOf(s.sent)
	s.sent += rows
	if want != frame.OutputNone {
		s.awaiting = true
		st.flight.asks = append(st.flight.asks, s)
	}
	st.rows -= rows
}
