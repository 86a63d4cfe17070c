package driver

import (
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/shoal-llm/shoal/pkg/frame"
)

// pace is what steps of a pipeline have taken, from the timings that travel with
// them. It predicts what others will take.
type pace struct {
	stages []curve // besides what keys cost the rows of prompts
	keys   []slope // of stages
	links  way     // all hops of a step, and the way of its result
}

func newPace(stages int) pace {
	return pace{stages: make([]curve, stages), keys: make([]slope, stages)}
}

// slope is what a key costs a row of a prompt: chunks that are as long as the one
// before them and lie behind it show it.
type slope struct {
	ns   float64 // of one row and one key
	seen middle
	last struct{ rows, keys, ns float64 } // of the chunk before: keys are a row's in the mean
}

// add notes a step that has chunks of prompts alone.
func (s *slope) add(rows, keys, took float64) {
	const like = 1.25 // how much longer a chunk may be than another like it
	l := s.last
	s.last.rows, s.last.keys, s.last.ns = rows, keys, took
	if l.rows == 0 || rows > like*l.rows || l.rows > like*rows || keys < l.keys+l.rows/2 {
		return
	}
	ns := (took/rows - l.ns/l.rows) / (keys - l.keys)
	s.ns = max(0, s.seen.add(min(ns, took/rows/keys)))
}

// middle is the median of the latest values: what holds a machine up now and then does
// not move it, and what stays is followed soon.
type middle struct {
	values [latest]float64
	n      int // that have come
}

// latest is how many values are remembered.
const latest = 7

// add returns the median with one more value.
func (m *middle) add(v float64) float64 {
	m.values[m.n%latest] = v
	m.n++
	sorted := m.values
	known := sorted[:min(m.n, latest)]
	slices.Sort(known)
	return known[(len(known)-1)/2]
}

// curve is the time that steps take by their rows: one median for each power of two
// of rows.
type curve struct{ points [lengths]point }

// lengths is the number of bit lengths of the numbers from 0 to frame.MaxRows.
const lengths = 13

type point struct {
	rows, ns float64 // in the middle of what was measured
	n        int
	row      middle // ns a row
}

const (
	unknown  = 0.5     // of a step's time that is taken to grow with its rows, before two lengths are measured
	sooner   = 0.99    // of a time: what makes shorter chunks worth it
	follow   = 1.0 / 8 // weight of the latest length in the mean of a point's
	leastOwn = 0.25    // of a step's time that is its rows' own, whatever the keys before them
)

func (c *curve) at(rows int) *point { return &c.points[bits.Len(uint(rows))] }

// add notes a step.
func (c *curve) add(rows int, took time.Duration) {
	p := c.at(rows)
	p.n++
	p.rows += (float64(rows) - p.rows) * max(follow, 1/float64(p.n))
	p.ns = p.row.add(float64(took)/float64(rows)) * p.rows
}

// around returns the measured points next to a number of rows, below or at it and
// above it, or the two nearest on one side; nil where there is none.
func (c *curve) around(rows float64) (low, high *point) {
	for i := range c.points {
		p := &c.points[i]
		switch {
		case p.n == 0:
		case low == nil:
			low = p
		case high == nil:
			high = p
		case high.rows <= rows: // both are below: a nearer pair
			low, high = high, p
		}
	}
	return low, high
}

// guess returns the likely time of a step in nanoseconds: on the line through the
// nearest points.
func (c *curve) guess(rows float64) float64 {
	low, high := c.around(rows)
	switch {
	case low == nil:
		return 0
	case high == nil:
		return low.ns * (1 - unknown + unknown*rows/low.rows)
	}
	slope := max(0, (high.ns-low.ns)/(high.rows-low.rows))
	return max(low.ns+slope*(rows-low.rows), min(low.ns, high.ns)*min(1, rows/low.rows))
}

// most returns a time that a step should not exceed: as guess where it was
// measured, and growing with the rows beyond.
func (c *curve) most(rows float64) float64 {
	low, high := c.around(rows)
	top := high
	if top == nil {
		top = low
	}
	if top != nil && rows > top.rows {
		return top.ns * rows / top.rows
	}
	return c.guess(rows)
}

// way is the time that steps spend between stages, which their bytes, and so their
// rows, make longer evenly.
type way struct{ curve }

// addMost notes that a step took no longer than a time, of which some was spent
// waiting for others.
func (w *way) addMost(rows int, took time.Duration) {
	if p := w.at(rows); p.n == 0 || float64(took) < p.ns {
		p.n++
		p.rows, p.ns = float64(rows), float64(took)
	}
}

// guess returns the time of a step alone: on the line from the shortest time that
// rises as slowly as any step of many more rows has shown to be possible.
func (w *way) guess(rows float64) float64 {
	var first *point
	for i := range w.points {
		if p := &w.points[i]; p.n > 0 && (first == nil || p.ns < first.ns) {
			first = p
		}
	}
	if first == nil {
		return 0
	}
	rise := math.Inf(1)
	for i := range w.points {
		if p := &w.points[i]; p.rows >= first.rows+manyMore {
			rise = min(rise, (p.ns-first.ns)/(p.rows-first.rows))
		}
	}
	if math.IsInf(rise, 1) {
		rise = 0
	}
	return max(0, first.ns+rise*(rows-first.rows))
}

// manyMore rows show in a time that jitters.
const manyMore = 8

// learn notes a step that has come back.
func (p *pace) learn(f *flight, r *frame.Result, now time.Time) {
	if f.rows == 0 || len(r.Timings) == 0 {
		return
	}
	rest := now.Sub(f.sent)
	for _, t := range r.Timings {
		if int(t.Stage) < len(p.stages) && t.ComputeNS > 0 {
			took := float64(t.ComputeNS)
			keys := &p.keys[t.Stage]
			if f.decodes == 0 {
				keys.add(float64(f.rows), f.pairs/float64(f.rows), took)
			}
			p.stages[t.Stage].add(f.rows, time.Duration(max(took-keys.ns*f.pairs, took*leastOwn)))
		}
		rest -= time.Duration(t.ComputeNS + t.WaitNS)
	}
	switch {
	case rest <= 0: // another clock
	case f.alone:
		p.links.add(f.rows, rest)
	default:
		p.links.addMost(f.rows, rest)
	}
}

// known reports whether all stages have been measured.
func (p *pace) known() bool {
	for i := range p.stages {
		if low, _ := p.stages[i].around(0); low == nil {
			return false
		}
	}
	return true
}

// slowest returns the time of the slowest stage for a step, by one of the two
// predictions of a curve.
func (p *pace) slowest(rows float64, predict func(*curve, float64) float64) float64 {
	worst := 0.0
	for i := range p.stages {
		worst = max(worst, predict(&p.stages[i], rows))
	}
	return worst
}

// through returns the time from when a step is sent to its result.
func (p *pace) through(rows float64) float64 {
	sum := p.links.guess(rows)
	for i := range p.stages {
		sum += p.stages[i].guess(rows)
	}
	return sum
}

// link returns for how long a step keeps one link busy: what its rows add to the
// way, over all links. Results are short.
func (p *pace) link(rows float64) float64 {
	links := len(p.stages) - 1
	if links == 0 {
		return 0
	}
	return max(0, p.links.guess(rows)-p.links.guess(1)) / float64(links)
}

// bottleneck returns the time that a step takes at the slowest place: others can
// follow it so closely.
func (p *pace) bottleneck(rows float64) float64 {
	return max(p.slowest(rows, (*curve).guess), p.link(rows))
}

// rate returns how many of n sessions' steps a nanosecond there are with so many
// lanes, each session taking rows rows of a step: as many as return in time, or
// as the slowest place lets through.
func (p *pace) rate(n, lanes int, rows float64) float64 {
	lanes = min(lanes, n)
	each := float64((n+lanes-1)/lanes) * rows
	return float64(n) / max(p.through(each), float64(lanes)*p.bottleneck(each))
}

// rowCost returns what share of a step's time one more row for each of its rows
// costs: near 0 where the step's length hardly matters, 1 where it is all.
func (p *pace) rowCost(rows float64, lanes int) float64 {
	time := p.through
	if float64(lanes)*p.bottleneck(rows) > p.through(rows) {
		time = p.bottleneck
	}
	if t := time(rows); t > 0 {
		return min(1, (time(2*rows)-t)/t)
	}
	return 0
}

// key returns what a key costs a row of a prompt at the stage where it costs most.
func (p *pace) key() float64 {
	worst := 0.0
	for i := range p.keys {
		worst = max(worst, p.keys[i].ns)
	}
	return worst
}

// fill returns how many rows of a prompt, from position at on, may be added to a
// step of rows rows, up to most, so that no stage is busy with it for longer than
// stage and no link for longer than link.
func (p *pace) fill(rows, at, most int, stage, link float64) int {
	key := p.key()
	fits := func(n int) bool {
		all := float64(rows + n)
		return p.slowest(all, (*curve).most)+key*pairs(at, n) <= stage && p.link(all) <= link
	}
	low, high := 0, most // low fits
	for low < high {
		if mid := (low + high + 1) / 2; fits(mid) {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}

// pairs returns how many keys n rows from position at on see together.
func pairs(at, n int) float64 { return float64(n) * (float64(at) + float64(n)/2) }

// chunk returns the time of n rows of a prompt, from position at on, at the slowest
// place.
func (p *pace) chunk(n, at int) float64 { return p.bottleneck(float64(n)) + p.key()*pairs(at, n) }

// cut returns the length of the next chunk that has n rows of a prompt, from position at
// on, computed soonest, when they are cut into equal chunks which the stages work on one
// behind the other. All chunks together take as long as the slowest place needs for them,
// and the other stages add the longest chunk once each, which is no less than that of the
// chunks before: short ones keep all stages busy, long ones cost less a row.
func (p *pace) cut(n, at, most int, before float64) int {
	best, soonest := 0, 0.0
	for chunks := max(1, (n+most-1)/most); ; chunks += max(1, chunks/8) {
		rows := (n + chunks - 1) / chunks
		longest := max(before, p.chunk(rows, at+n-rows))
		took := float64(chunks)*p.bottleneck(float64(rows)) + float64(len(p.stages)-1)*longest
		if best == 0 || took < soonest*sooner {
			best, soonest = rows, took
		}
		if rows <= minChunk {
			return best
		}
	}
}
