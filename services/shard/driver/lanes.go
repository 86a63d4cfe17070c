package driver

import (
	"slices"
	"time"
)

// lanes chooses the number of lanes by measured ids a second. What the pace
// predicts says which numbers are worth a trial; each of those is tried for a
// window, and the best that was measured is kept. Trials are repeated, ever more
// seldom, as long as the number of sessions stays alike.
type lanes struct {
	most    int
	now     int       // in force
	streams int       // for how many sessions the following holds
	rates   []float64 // ids a nanosecond, by lanes; 0 is not measured
	window  window
	rest    int // windows until the next trial
	pause   int // the rest after that
}

// window is a stretch of time in which ids are counted.
type window struct {
	skip    int // results that still belong to the time before
	results int
	ids     int
	since   time.Time
}

const (
	windowRounds = 6    // of all lanes in a window
	worthTrying  = 0.85 // of the best predicted rate
	asGood       = 0.98 // of the best measured rate: fewer lanes leave room for prompts
	clearlyMore  = 1.01 // a predicted rate for which there is another lane
	muchMore     = 1.05 // one for which the lanes in force are changed
	firstRest    = 16   // windows between two trials
	lastRest     = 4096
)

func newLanes(cfg Config) lanes {
	l := lanes{most: cfg.Lanes, now: cfg.Lanes, rates: make([]float64, cfg.Lanes+1)}
	if cfg.Target > 0 {
		l.now = 1
	}
	return l
}

// share returns how many of n sessions a lane carries.
func (l *lanes) share(n int) int { return (n + l.now - 1) / l.now }

// observe notes a step with decode rows that has come back. mixed says that
// chunks are on their way too: then the window says nothing of the lanes. rate predicts.
func (l *lanes) observe(now time.Time, ids, streams int, mixed bool, rate func(lanes int) float64) {
	if change := max(streams-l.streams, l.streams-streams); change > l.streams/8 {
		l.reset(streams, rate)
		return
	}
	w := &l.window
	switch {
	case mixed:
		l.begin()
		l.follow(rate)
		return
	case w.skip > 0:
		w.skip--
		w.since = now
		return
	}
	w.results++
	w.ids += ids
	if w.results < windowRounds*l.now {
		return
	}
	if took := now.Sub(w.since); took > 0 {
		measured := float64(w.ids) / float64(took)
		if old := l.rates[l.now]; old > 0 {
			measured = (old + measured) / 2
		}
		l.rates[l.now] = measured
		l.choose(rate)
	}
	l.begin()
}

// begin starts a window once what is in flight has come back.
func (l *lanes) begin() { l.window = window{skip: 2 * l.now} }

// reset begins anew for another number of sessions, with the best predicted.
func (l *lanes) reset(streams int, rate func(int) float64) {
	l.streams, l.rest, l.pause = streams, firstRest, firstRest
	clear(l.rates)
	l.follow(rate)
	l.begin()
}

// follow takes the number of lanes that is predicted to be the best, if it is much
// better and nothing was measured: who falls out of a lane waits for another.
func (l *lanes) follow(rate func(int) float64) {
	if l.rates[l.now] > 0 {
		return
	}
	most := max(1, min(l.most, l.streams))
	l.now = min(l.now, most)
	best := rate(l.now) * muchMore
	for n := 1; n <= most; n++ {
		if r := rate(n); r > best {
			l.now, best = n, r*clearlyMore
		}
	}
}

// choose takes the next number to try, or the smallest that is as good as the best.
func (l *lanes) choose(rate func(int) float64) {
	if next := l.untried(rate); next > 0 {
		l.now = next
		return
	}
	best := slices.Max(l.rates)
	if best == 0 { // steps that gave no id say nothing
		return
	}
	l.now = slices.IndexFunc(l.rates, func(r float64) bool { return r >= best*asGood })
	if l.rest--; l.rest > 0 {
		return
	}
	l.pause = min(2*l.pause, lastRest)
	l.rest = l.pause
	for n := range l.rates {
		if n != l.now {
			l.rates[n] = 0 // to be tried again
		}
	}
}

// untried returns a number of lanes that may be the best and was not measured
// yet; 0 is none.
func (l *lanes) untried(rate func(int) float64) int {
	most, best := min(l.most, l.streams), 0.0
	for n := 1; n <= most; n++ {
		best = max(best, rate(n))
	}
	for n := 1; n <= most; n++ {
		if l.rates[n] == 0 && rate(n) >= best*worthTrying {
			return n
		}
	}
	return 0
}
