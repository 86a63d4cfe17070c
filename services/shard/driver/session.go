package driver

import (
	"slices"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/kv"
)

// session is one generation in its slot.
type session struct {
	open      *frame.Open
	schedule  Schedule
	ids       []int32 // prompt and sampled ids: one per known position
	given     int     // how many of ids were submitted
	told      int     // of these, those that were reported as computed
	prompt    int     // of ids, those that go in chunks: submitted, or known when the session began anew
	committed int
	ahead     int
	sent      int        // positions that the stages hold once they have all steps
	sure      int        // of those, the first ones: no guesses
	cached    int        // of those, adopted from a prefix
	pages     []*page    // of the positions sent
	names     [][32]byte // identities of the first pages, as far as they were needed
	turns     [2]float64 // of each kind: rows it has had for its weight
	awaiting  bool       // a step that asks for its next id is in flight
	opened    bool       // a step has carried its Open
	again     bool       // it has begun anew: its pages went to others
	longest   float64    // ns that a chunk of its prompt takes at the slowest place
	thinned   int        // blocks of which the stages kept one of several positions
	shared    int        // of the pages, the first ones: published or adopted
	lookup    lookup
	trust     trust // in lookup
	wishing   bool  // the draft model guesses its next ids
	guesses   guesses
	ended     bool
	reason    Reason
	detail    string
}

// Sessions take turns with the rows of their prompts, and with decode rows.
const (
	promptTurn = iota
	decodeTurn
)

// weight is the session's share of what all want.
func (s *session) weight() float64 {
	if w := s.open.Weight; w > 0 {
		return float64(w)
	}
	return 1
}

// maxWeight bounds how much more than another one session may have.
const maxWeight = 1000

// credit reports whether the session may sample one more id.
func (s *session) credit() bool { return len(s.ids)+1-s.committed <= s.ahead }

// output is what the last row of the prompt is for.
func (s *session) output() frame.Output {
	if s.open.Pooling != frame.PoolingNone {
		return frame.OutputPooled
	}
	return frame.OutputSample
}

// filling reports whether rows of the prompt have not been sent.
func (s *session) filling() bool { return s.sent < s.prompt }

// decodable reports whether the session's next row can be sent.
func (s *session) decodable() bool {
	return !s.filling() && !s.awaiting && !s.wishing && s.credit()
}

// starved reports whether the session would be in the next step if there were
// pages.
func (s *session) starved() bool { return s.filling() || s.decodable() }

// closed is the notice of the session's end.
func (s *session) closed() Closed {
	return Closed{Slot: s.open.Slot, Attempt: s.open.Attempt, Reason: s.reason, Detail: s.detail}
}

// pagesOf returns the pages that n positions take.
func pagesOf(n int) int { return (n + kv.PageTokens - 1) / kv.PageTokens }

func (e Submit) apply(m *Machine, _ *Output) error {
	o := e.Open
	switch {
	case o == nil:
		return refused("no session")
	case int(o.Slot) >= len(m.slots):
		return refused("slot %d of %d", o.Slot, len(m.slots))
	case m.slots[o.Slot] != nil:
		return refused("slot %d is taken", o.Slot)
	case len(e.Tokens) == 0:
		return refused("a prompt without ids")
	case len(e.Tokens) > m.cfg.Context:
		return refused("a prompt of %d ids, context of %d", len(e.Tokens), m.cfg.Context)
	case e.Ahead < 1:
		return refused("%d ids ahead of the commits", e.Ahead)
	case len(o.History) > 0:
		return refused("history is not submitted: it is chosen with a prefix")
	case !(o.Weight >= 0 && o.Weight <= maxWeight):
		return refused("weight %v, want 0 to %d", o.Weight, maxWeight)
	case e.Chunk < 0 || e.Class > ClassThroughput:
		return refused("chunks of %d rows in class %d", e.Chunk, e.Class)
	case frame.CheckPictures(o.Pictures, len(e.Tokens)) != nil:
		return refused("%v", frame.CheckPictures(o.Pictures, len(e.Tokens)))
	case o.Adapter != "" && !slices.Contains(m.cfg.Adapters, o.Adapter):
		return refused("adapter %q is not loaded", o.Adapter)
	case o.KV != (frame.KVClass{}):
		return refused("a KV cache of %d bits: only the device's own precision is kept", o.KV.Bits)
	}
	s := &session{
		open: o, schedule: e.Schedule, ahead: e.Ahead,
		ids: slices.Clone(e.Tokens), given: len(e.Tokens), prompt: len(e.Tokens), committed: len(e.Tokens),
		turns: m.served, trust: trust{rate: firstTrust}, guesses: guesses{trust: trust{rate: firstTrust}},
	}
	m.slots[o.Slot] = s
	m.sessions = append(m.sessions, s)
	m.expire()
	return nil
}

// live returns the session of an attempt unless it has ended. Messages about
// ended sessions cross with the news of their end and are nothing special.
func (m *Machine) live(slot frame.Slot, attempt uint32) *session {
	if int(slot) >= len(m.slots) {
		return nil
	}
	s := m.slots[slot]
	if s == nil || s.ended || s.open.Attempt != attempt {
		return nil
	}
	return s
}

func (e Commit) apply(m *Machine, _ *Output) error {
	if s := m.live(e.Slot, e.Attempt); s != nil {
		s.committed = max(s.committed, e.Length)
	}
	return nil
}

func (e Halt) apply(m *Machine, _ *Output) error {
	if s := m.live(e.Slot, e.Attempt); s != nil {
		m.end(s, ReasonHalted, "")
	}
	return nil
}

func (Tick) apply(m *Machine, _ *Output) error {
	m.expire()
	return nil
}

// expire ends the sessions whose deadline has passed.
func (m *Machine) expire() {
	for _, s := range slices.Clone(m.sessions) {
		if d := s.open.DeadlineMS; d != 0 && d <= m.now.UnixMilli() {
			m.end(s, ReasonDeadline, "")
		}
	}
}

// end takes a live session out of all further steps. Its Close goes with the
// next one.
func (m *Machine) end(s *session, why Reason, detail string) {
	s.ended, s.reason, s.detail = true, why, detail
	i := slices.Index(m.sessions, s)
	m.sessions = slices.Delete(m.sessions, i, i+1)
	m.ending = append(m.ending, s)
}
