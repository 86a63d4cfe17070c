package coordinator

import (
	"slices"
	"time"

	"github.com/shoal-llm/shoal/pkg/frame"
)

const (
	manyRows  = 32  // a step with as many computes prompts
	horizon   = 64  // ids of an answer that a choice looks ahead
	paceShare = 0.1 // of a new measurement in the average
)

// pace is how fast a pipeline was lately. Zero is not measured.
type pace struct {
	row  float64 // seconds for a row of a prompt, at the slowest stage
	step float64 // seconds for a step of decodes, at all stages together
}

// note takes the timings of a step.
func (p *pace) note(timings []frame.Timing) {
	var slowest, sum time.Duration
	rows := uint32(0)
	for _, t := range timings {
		d := time.Duration(t.ComputeNS + t.WaitNS)
		slowest, sum, rows = max(slowest, d), sum+d, t.Rows
	}
	if rows >= manyRows {
		average(&p.row, slowest.Seconds()/float64(rows))
	} else if rows > 0 {
		average(&p.step, sum.Seconds())
	}
}

func average(value *float64, sample float64) {
	if *value == 0 {
		*value = sample
		return
	}
	*value += paceShare * (sample - *value)
}

// cost is the time a session would wait for its first ids: until the prompts
// before it and its own are computed, and then by its share of the steps. What
// was not measured yet is taken to be as fast as the others.
func (p *pipeline) cost(ids int, typical pace) float64 {
	row, step := p.pace.row, p.pace.step
	if row == 0 {
		row = typical.row
	}
	if step == 0 {
		step = typical.step
	}
	return float64(p.queued()+ids)*row + horizon*float64(p.running()+1)*step
}

// computed notes how much of a session's prompt is left.
func (p *pipeline) computed(s *session, left int) {
	if p.has(s.place, s.attempt) {
		p.slots[s.place].prompt = left
	}
}

// fits reports whether the prompt leaves room for an answer in the context.
func (p *pipeline) fits(s *session) bool { return s.ready.fits(p.plan.Context) == nil }

// roomFor reports whether the session fits, there is a slot, and KV pages for the
// prompt and the longest answer.
func (p *pipeline) roomFor(s *session) bool {
	return p.fits(s) && s.ready.pages() <= p.free && slices.ContainsFunc(p.slots, func(s slot) bool { return s.attempt == 0 })
}

// choose returns the pipeline on which a session is placed: the one that is
// soonest done with it, and of equals the one with more free pages. None has
// room: nil. One that fits no pipeline gets any: it is refused there.
func (o *owner) choose(s *session) *pipeline {
	candidates := o.serving()
	if len(candidates) > 0 && !slices.ContainsFunc(candidates, func(p *pipeline) bool { return p.fits(s) }) {
		return candidates[0]
	}
	candidates = slices.DeleteFunc(candidates, func(p *pipeline) bool { return !p.roomFor(s) })
	typical := pace{row: 1e-6, step: 1e-6}
	for _, p := range candidates {
		typical.row, typical.step = max(typical.row, p.pace.row), max(typical.step, p.pace.step)
	}
	ids := len(s.ready.prompt)
	if s.machine != nil {
		ids += s.machine.Committed()
	}
	var best *pipeline
	least := 0.0
	for _, p := range candidates {
		cost := p.cost(ids-p.prefixes.cached(s.ready.chain), typical)
		if best == nil || cost < least || cost == least && p.free > best.free {
			best, least = p, cost
		}
	}
	return best
}
