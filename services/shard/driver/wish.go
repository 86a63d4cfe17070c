package driver

import (
	"math"
	"time"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// Wish asks the draft model for guesses of a session's next ids (speculative
// decoding: Leviathan, Kalman and Matias, 2023; here a guess counts where it is the
// very id that the last stage samples at its position). The session waits for the
// answer.
type Wish struct {
	Open  *frame.Open
	IDs   []int32 // of the session, which are not changed
	Count int     // guesses at most; at least one
}

// Guessed answers a Wish.
type Guessed struct {
	Slot    frame.Slot
	Attempt uint32
	IDs     []int32       // none: the model is behind with the text, or has no room for it
	Took    time.Duration // the model needs for one id; 0 was not measured
	Failed  bool          // it guesses no more, for nobody
}

// drafting is what is known of the draft model.
type drafting struct {
	on  bool
	ns  float64 // that it needs for an id; 0 is unknown
	mid middle
}

// guesses are what the draft model has guessed for a session.
type guesses struct {
	ids   []int32
	at    int // the ids that the session had when they were asked for
	trust trust
}

// guessed returns the draft model's guesses of the ids that come next.
func (s *session) guessed() []int32 {
	if s.guesses.at != len(s.ids) {
		return nil
	}
	return s.guesses.ids
}

// wish asks the draft model for guesses of those sessions that can go on and for
// which it pays.
func (m *Machine) wish(out *Output) {
	if !m.drafting.on {
		return
	}
	n := len(m.decoding())
	for _, s := range m.sessions {
		if !s.decodable() || s.guesses.at == len(s.ids) || len(s.open.Pictures) > 0 {
			continue
		}
		s.guesses.ids, s.guesses.at = nil, len(s.ids)
		if s.trust.rate >= s.guesses.trust.rate && s.lookup.guess(s.ids, 1) != nil {
			continue // the text itself guesses as well, and at once
		}
		if count := m.wishes(s, n); count > 0 {
			s.wishing = true
			out.Wishes = append(out.Wishes, Wish{Open: s.open, IDs: s.ids[:len(s.ids):len(s.ids)], Count: count})
		}
	}
}

// worthWish is how many times as many ids in the same time are worth a draft.
const worthWish = 1.03

// wishes returns how many guesses give a session the most ids for the time of the step
// and of the draft model, which guesses for the n sessions that decode one after the
// other.
func (m *Machine) wishes(s *session, n int) int {
	most := m.mostDrafts(s)
	t := &s.guesses.trust
	if most < 1 || !m.adapts() || !m.pace.known() || m.drafting.ns == 0 {
		return most
	}
	if best := m.pays(n, most, t.rate); best > 0 {
		t.tries = 0
		return best
	}
	if t.tries++; t.tries%retryEvery == 0 && m.pays(n, 1, goodTrust) > 0 {
		return 1 // texts change
	}
	return 0
}

// goodTrust is how often guesses hold that are good.
const goodTrust = 0.9

// pays returns how many guesses, of which so many hold, give each of n sessions the
// most ids for the time; 0 is none.
func (m *Machine) pays(n, most int, rate float64) int {
	rate = min(rate, 0.999)
	lanes := min(m.lanes.now, n)
	value := func(count int) float64 {
		ids := (1 - math.Pow(rate, float64(count+1))) / (1 - rate)
		round := float64(n) / m.pace.rate(n, lanes, float64(1+count))
		return ids / (round + float64(n*count)*m.drafting.ns)
	}
	best, highest := 0, value(0)*worthWish
	for count := 1; count <= most; count++ {
		if v := value(count); v > highest {
			best, highest = count, v
		}
	}
	return best
}

func (e Guessed) apply(m *Machine, _ *Output) error {
	if e.Took > 0 {
		m.drafting.ns = m.drafting.mid.add(float64(e.Took))
	}
	if e.Failed {
		m.drafting.on = false
		for _, s := range m.sessions {
			s.wishing = false
		}
	}
	if s := m.live(e.Slot, e.Attempt); s != nil && s.wishing {
		s.wishing, s.guesses.ids = false, e.IDs
	}
	return nil
}
