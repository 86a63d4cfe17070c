package driver

import (
	"cmp"
	"slices"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/kv"
)

// minChunk is how short chunks of a prompt get for the sake of others.
const minChunk = 8

// spareOps are the operations of a frame that are kept for sessions that have to
// go with it: evictions leave them.
const spareOps = frame.MaxOps / 2

// form sends steps while there is something to send and room in flight.
func (m *Machine) form(out *Output) {
	m.dropUnopened(out)
	m.wish(out)
	for len(m.flight) < m.cfg.InFlight {
		st := m.next()
		if len(st.frame.Ops) == 0 && len(st.frame.Spans) == 0 {
			if !m.relieve() {
				return
			}
			m.dropUnopened(out)
			continue
		}
		if st.flight.decodes > 0 {
			m.decodes++
		}
		st.flight.rows = m.cfg.Rows - st.rows
		st.flight.alone = len(m.flight) == 0
		m.step++
		m.flight = append(m.flight, st.flight)
		out.Send = append(out.Send, st.frame)
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

// relieve takes the pages of the youngest session that holds some when nothing is in
// flight and nothing can be sent, or is guessed to be sent: then all wait for pages, and
// would for ever. It begins anew once there are pages for all it had; one that has had
// all pages there are ends. It reports whether it did.
func (m *Machine) relieve() bool {
	if len(m.flight) > 0 || slices.ContainsFunc(m.sessions, func(s *session) bool { return s.wishing }) || !slices.ContainsFunc(m.sessions, (*session).starved) {
		return false
	}
	var youngest *session
	holders := 0
	for _, s := range m.sessions {
		if s.sent == 0 {
			continue
		}
		if youngest, holders = s, holders+1; !s.starved() {
			return false // it waits for commits, and goes on
		}
	}
	switch holders {
	case 0:
		return false
	case 1:
		m.end(youngest, ReasonFailed, "no free KV pages")
	default:
		m.restart = youngest
	}
	return true
}

// addRestart closes a session that begins anew, from its prompt and all ids since:
// whoever is asked for the same id with the same ids before gives the same.
func (m *Machine) addRestart(st *step) {
	s := m.restart
	if s == nil {
		return
	}
	m.restart = nil
	m.publish(st, s)
	st.frame.Ops = append(st.frame.Ops, frame.Op{Close: &frame.Close{Slot: s.open.Slot}})
	m.shrink(s, 0)
	o := *s.open
	o.History = nil
	s.open, s.opened, s.again = &o, false, true
	s.sent, s.sure, s.cached, s.shared, s.thinned, s.prompt = 0, 0, 0, 0, 0, len(s.ids)
	m.stats.Restarted++
}

// mayOpen reports whether a session may have its first pages: one that begins anew when
// it can have all, others when none of these waits.
func (m *Machine) mayOpen(st *step, s *session) bool {
	if !s.again {
		return !slices.ContainsFunc(m.sessions, func(s *session) bool { return s.again && !s.opened }) && (m.free > 0 || m.evict(st))
	}
	need := min(m.cfg.KV.Pages(len(s.ids)+1), m.cfg.Pages)
	for m.free < need && m.evict(st) {
	}
	return m.free >= need
}

// step is one that is being formed.
type step struct {
	frame  *frame.Frame
	flight flight
	rows   int // that are left
}

// next forms a step: closes, decode rows of one lane, chunks of prompts.
func (m *Machine) next() *step {
	st := &step{
		frame:  &frame.Frame{Epoch: m.cfg.Epoch, Pipeline: m.cfg.Pipeline, Step: m.step},
		flight: flight{step: m.step, sent: m.now},
		rows:   m.cfg.Rows,
	}
	m.addCloses(st)
	m.addRestart(st)
	decoding := m.decoding()
	m.addDecodes(st, decoding, slices.ContainsFunc(m.sessions, (*session).filling))
	m.addChunks(st, decoding)
	if len(st.frame.Spans) == 0 { // no prompt has pages for the row that was left to it
		m.addDecodes(st, decoding, false)
	}
	return st
}

// addCloses closes ended sessions. What they hold is published first.
func (m *Machine) addCloses(st *step) {
	const opsEach = 4 // at most, with evictions
	n := min(len(m.ending), frame.MaxOps/2/opsEach)
	for _, s := range m.ending[:n] {
		m.publish(st, s)
		st.frame.Ops = append(st.frame.Ops, frame.Op{Close: &frame.Close{Slot: s.open.Slot}})
		st.flight.closes = append(st.flight.closes, s)
		m.shrink(s, 0)
	}
	m.ending = append([]*session(nil), m.ending[n:]...)
}

// decoding returns the sessions whose prompt has been sent and that can go on:
// they wait for an id, or for guesses, or can be asked for the next.
func (m *Machine) decoding() []*session {
	var out []*session
	for _, s := range m.sessions {
		if s.awaiting || s.wishing || s.decodable() {
			out = append(out, s)
		}
	}
	return out
}

// turn puts sessions in the order in which they are served: who has had the least
// for its weight comes first (stride scheduling).
func turn(sessions []*session, kind int) []*session {
	slices.SortStableFunc(sessions, func(a, b *session) int { return cmp.Compare(a.turns[kind], b.turns[kind]) })
	return sessions
}

// serve counts rows as a session's turn.
func (m *Machine) serve(s *session, kind, rows int) {
	m.served[kind] = max(m.served[kind], s.turns[kind])
	s.turns[kind] += float64(rows) / s.weight()
}

// addDecodes adds the decode rows of one lane, unless all lanes are in flight. A
// session of the latency class is of every lane. While prompts are filling one row is left
// to them.
func (m *Machine) addDecodes(st *step, decoding []*session, filling bool) {
	var lane []*session
	most, full := m.lanes.share(len(decoding)), m.decodes >= m.lanes.now
	for _, s := range turn(slices.Clone(decoding), decodeTurn) {
		switch {
		case !s.decodable():
		case s.schedule.Class == ClassLatency:
			lane = append([]*session{s}, lane...)
		case !full && most > 0:
			lane = append(lane, s)
			most--
		}
	}
	keep := st.rows
	if (keep > 1 || m.step%2 == 0) && filling {
		keep-- // a prompt goes on, however many decode
	}
	lane = lane[:min(len(lane), keep)]
	cost := m.pace.rowCost(float64(len(lane)), m.lanes.now)
	spare := keep - len(lane) // rows for guesses
	for _, s := range lane {
		if !st.room() {
			return
		}
		drafts, model := m.drafts(s, spare, cost)
		rows := m.fit(st, s, 1+len(drafts))
		if rows < 1 {
			continue
		}
		drafts = drafts[:rows-1]
		spare -= len(drafts)
		m.addDecode(st, s, drafts, model)
	}
}

// addDecode sends a session's next row and guesses of the ids after it, which the
// draft model made or not.
func (m *Machine) addDecode(st *step, s *session, drafts []int32, model bool) {
	if s.shared < s.prompt/kv.PageTokens {
		m.publish(st, s)
	}
	if s.sure < s.sent { // guesses that did not hold
		st.frame.Ops = append(st.frame.Ops, frame.Op{Truncate: &frame.Truncate{Slot: s.open.Slot, Len: int32(s.sure)}})
		m.shrink(s, s.sure)
		s.sent = s.sure
	}
	tokens := append(s.ids[s.sent:s.sent+1:s.sent+1], drafts...)
	m.addSpan(st, s, tokens, len(drafts), frame.OutputSample)
	st.flight.asks[len(st.flight.asks)-1].model = model
	m.serve(s, decodeTurn, 1)
	st.flight.decodes++
	st.flight.decodeRows += len(tokens)
}

// addChunks fills the step with prompts, one chunk a session, in turn.
func (m *Machine) addChunks(st *step, decoding []*session) {
	var filling []*session
	waiting := 0 // rows
	for _, s := range m.sessions {
		if s.filling() {
			filling = append(filling, s)
			waiting += s.prompt - s.sent
		}
	}
	if waiting == 0 {
		return
	}
	filling = turn(filling, promptTurn)
	left := m.chunkRows(st, decoding, waiting, filling[0])
	for _, s := range filling {
		if left < 1 || !st.room() {
			return
		}
		left -= m.addChunk(st, s, left, len(decoding) > 0)
	}
}

// addChunk sends the next rows of a prompt, at most left, and returns how many.
func (m *Machine) addChunk(st *step, s *session, left int, shared bool) int {
	if !s.opened {
		if !m.mayOpen(st, s) {
			return 0
		}
		m.open(st, s)
	} else if s.shared < s.sent/kv.PageTokens {
		m.publish(st, s) // who comes meanwhile need not compute it again
	}
	rows := min(s.prompt-s.sent, m.cfg.Chunk, st.rows)
	switch n := s.schedule.Chunk; {
	case s.schedule.Fixed && n == 0:
		rows = min(rows, FixedChunk)
	case n > 0:
		rows = min(rows, n)
	}
	if !s.schedule.Fixed || shared {
		rows = min(rows, left)
	}
	if rows = m.fit(st, s, rows); rows < 1 {
		return 0
	}
	want := frame.OutputNone
	if s.sent+rows == s.prompt {
		want = s.output()
	}
	st.flight.pairs += pairs(s.sent, rows)
	s.longest = max(s.longest, m.pace.chunk(rows, s.sent))
	m.addSpan(st, s, s.ids[s.sent:s.sent+rows:s.sent+rows], 0, want)
	m.serve(s, promptTurn, rows)
	s.turns[decodeTurn] = m.served[decodeTurn] // it is due with those who are served now
	st.flight.chunks = append(st.flight.chunks, chunk{session: s, end: s.sent})
	return rows
}

// room reports whether the step can take one more span.
func (st *step) room() bool {
	const opsEach = 4 // at most, besides evictions
	return st.rows > 0 && len(st.frame.Spans) < frame.MaxSpans && len(st.frame.Ops) <= frame.MaxOps-opsEach
}

// addSpan sends rows of a session, the last drafted of which are guesses.
func (m *Machine) addSpan(st *step, s *session, tokens []int32, drafted int, want frame.Output) {
	st.frame.Spans = append(st.frame.Spans, frame.Span{
		Slot: s.open.Slot, Attempt: s.open.Attempt, Start: int32(s.sent),
		Tokens: tokens, Output: want, Drafted: uint8(drafted),
	})
	from := s.sent
	s.sent += len(tokens)
	s.sure = s.sent - drafted
	m.grow(s, from, s.sent)
	if want != frame.OutputNone {
		s.awaiting = true
		st.flight.asks = append(st.flight.asks, ask{session: s, drafts: tokens[len(tokens)-drafted:]})
	}
	st.rows -= len(tokens)
}

// chunkRows returns how many rows of prompts a step may have, of which waiting
// wait, those of first first.
func (m *Machine) chunkRows(st *step, decoding []*session, waiting int, first *session) int {
	at := first.sent
	switch {
	case !m.adapts():
		return st.rows
	case !m.pace.known():
		return min(st.rows, firstChunk)
	case len(decoding) > 0:
		return m.chunksBeside(st, m.target(decoding), at)
	case !m.linkBound() && len(m.flight) > m.cfg.Stages:
		return 0
	}
	limit := max(longest*float64(m.cfg.Target)/float64(m.cfg.Stages), longSteps*m.pace.slowest(1, (*curve).guess))
	most := max(minChunk, m.pace.fill(0, at, st.rows, limit, limit))
	return min(st.rows, m.pace.cut(waiting, at, most, first.longest))
}

// chunksBeside is chunkRows while sessions decode, which should not wait for longer
// than target. A step with decode rows may find others before it: one at each
// stage, and all that are in flight at the same link.
func (m *Machine) chunksBeside(st *step, target float64, at int) int {
	decodes := m.cfg.Rows - st.rows
	stage, link := target/float64(m.cfg.Stages), target/float64(m.cfg.InFlight)
	switch {
	case decodes > 0 && m.pace.link(float64(decodes+minChunk)) > link:
		return 0 // on slow links decode rows go alone
	case decodes > 0:
		stage = max(stage, leastShare*m.pace.slowest(float64(decodes), (*curve).guess))
	case !m.linkBound() && len(m.flight) >= m.cfg.Stages:
		return 0 // the stages are busy; the next decode step takes the chunks along
	}
	return max(1, m.pace.fill(decodes, at, st.rows, stage, link))
}

const (
	firstChunk = 32 // rows, while no step was measured
	longest    = 4  // targets that a step may take while nobody decodes
	longSteps  = 8  // decode steps that it may take on slow devices
	leastShare = 2  // of the decode rows' own time: what a step with chunks may take at least
	classShift = 4  // how many times shorter or longer the steps of other classes are
)

// linkBound reports whether chunks keep the links busy for longer than the stages:
// then more steps than there are stages may be on their way.
func (m *Machine) linkBound() bool {
	stage := m.pace.slowest(1+minChunk, (*curve).guess) - m.pace.slowest(1, (*curve).guess)
	return m.pace.link(1+minChunk) > max(0, stage)
}

// target returns how long a step may take for those who wait for it.
func (m *Machine) target(decoding []*session) float64 {
	all := ClassThroughput
	for _, s := range decoding {
		switch {
		case s.schedule.Class == ClassLatency:
			return float64(m.cfg.Target) / classShift
		case s.schedule.Class == ClassNormal:
			all = ClassNormal
		}
	}
	if all == ClassThroughput {
		return float64(m.cfg.Target) * classShift
	}
	return float64(m.cfg.Target)
}
