package driver

import "math"

// gram is how many ids must have stood side by side before for what followed them
// to be a guess.
const gram = 3

// lookup guesses the next ids of a text from where its last ones stood before:
// prompt lookup decoding (A. Saxena, 2023). Texts that repeat what was said, as
// summaries, edits and code do, are guessed well.
type lookup struct {
	next map[[gram]int32]int // what follows a run of ids for the last time: its position
	done int                 // ids of which the runs are known
}

// guess returns up to k ids that may follow ids; where the run stood so lately
// that what followed is shorter, it goes round.
func (l *lookup) guess(ids []int32, k int) []int32 {
	if len(ids) < gram || k < 1 {
		return nil
	}
	if l.next == nil {
		l.next, l.done = map[[gram]int32]int{}, gram
	}
	for ; l.done < len(ids); l.done++ { // the run before each id; that of the end is looked up
		l.next[[gram]int32(ids[l.done-gram:])] = l.done
	}
	from, ok := l.next[[gram]int32(ids[len(ids)-gram:])]
	if !ok {
		return nil
	}
	out := make([]int32, 0, k)
	for i := range k {
		if at := from + i; at < len(ids) {
			out = append(out, ids[at])
		} else {
			out = append(out, out[at-len(ids)])
		}
	}
	return out
}

// Of how often guesses hold.
const (
	firstTrust  = 0.7  // before the first
	trustFollow = 0.15 // weight of the latest
	leastGain   = 0.05 // a guess that holds more seldom is never worth its row
	retryEvery  = 32   // steps after which a text that was guessed badly is tried again
)

// trust is how far a session's guesses can be trusted.
type trust struct {
	rate  float64 // a guess holds if all before it did
	tries int     // steps without guesses, because they do not pay
}

// length returns how many guesses pay, when each costs cost of what an id is worth
// at the moment.
func (t *trust) length(most int, cost float64) int {
	cost = max(cost, leastGain)
	if t.rate > cost {
		t.tries = 0
		return min(most, int(math.Log(cost)/math.Log(min(t.rate, 0.999))))
	}
	if t.tries++; t.tries%retryEvery == 0 && cost < 1 {
		return min(most, 1)
	}
	return 0
}

// note takes in that accepted of drafted guesses held.
func (t *trust) note(drafted, accepted int) {
	for range accepted {
		t.rate += (1 - t.rate) * trustFollow
	}
	if accepted < drafted {
		t.rate -= t.rate * trustFollow
	}
}

// mostDrafts returns how many ids of a session may be guessed now.
func (m *Machine) mostDrafts(s *session) int {
	most := min(m.cfg.Drafts, s.ahead-(len(s.ids)+1-s.committed), m.cfg.Context-len(s.ids))
	if n := int(s.open.Sampling.MaxTokens); n > 0 {
		most = min(most, int(s.open.AnswerStart)+n-len(s.ids)-1) // the last id needs no row after it
	}
	if s.schedule.NoDrafts {
		return 0
	}
	return max(0, most)
}

// drafts guesses ids for a session whose step has room for that many more rows and
// whose next row costs cost of an id; model says that the draft model did.
func (m *Machine) drafts(s *session, room int, cost float64) (ids []int32, model bool) {
	most := min(m.mostDrafts(s), room)
	if most < 1 {
		return nil, false
	}
	if ids := s.guessed(); len(ids) > 0 {
		ids = ids[:min(len(ids), most)]
		m.stats.Drafted += len(ids)
		return ids, true
	}
	if m.adapts() {
		most = s.trust.length(most, cost)
	}
	ids = s.lookup.guess(s.ids, most)
	m.stats.Drafted += len(ids)
	return ids, false
}
