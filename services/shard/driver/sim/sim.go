// Package sim runs a driver over simulated devices and links.
//
// A device takes a fixed time for a step and more for each of its rows, a link
// has a latency and a bandwidth; time is virtual, so that a second of a pipeline
// takes some milliseconds and equal runs are equal. It is the bench of the
// driver's choices: lanes, chunks, guesses.
package sim

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/services/shard/driver"
)

// Device is what computes a stage.
type Device struct {
	Fixed time.Duration // of a step
	Row   time.Duration // more, for each row
	Key   time.Duration // more, for each row and 1,024 positions before it
	Stall time.Duration // more, for one step of sixteen: something else had the machine
}

// Link carries frames from a stage to the next, or results to the driver.
type Link struct {
	Latency   time.Duration
	Bandwidth float64 // bytes a second; 0 is without limit
}

// Pipeline is a row of devices. Links has one entry for each: the last is that of
// the results.
type Pipeline struct {
	Name     string
	Devices  []Device
	Links    []Link
	RowBytes int // activations of one row
	Draft    Draft
}

// Draft is a draft model on the first device. The zero value is none.
type Draft struct {
	Each  time.Duration // that an id takes
	Right float64       // how often one holds if all before it did
}

// Request is a session that comes at a time.
type Request struct {
	At       time.Duration
	Prompt   int // ids
	Answer   int // ids
	Seed     uint64
	Period   int    // the text repeats itself after so many ids; 0 is never
	Again    bool   // when it has ended, another one like it comes at once
	Last     bool   // the run ends with it
	lengths  [2]int // around which the next one's are; 0 are the same
	Weight   float32
	Schedule driver.Schedule
}

// Answer is what became of a request.
type Answer struct {
	Submitted time.Duration
	Chunks    []int           // rows of its prompt by step
	IDs       []int32         // its answer
	Times     []time.Duration // when each id came
	Cached    int             // ids of its prompt that were not computed
	Reason    driver.Reason
}

// Gap returns the longest time between two ids that came apart.
func (a *Answer) Gap() time.Duration {
	longest := time.Duration(0)
	for i := 1; i < len(a.Times); i++ {
		longest = max(longest, a.Times[i]-a.Times[i-1])
	}
	return longest
}

// Report is what a run gave.
type Report struct {
	Answers []*Answer
	Steps   int
	End     time.Duration
	Stats   driver.Stats
	Rows    []int // of the steps
}

// Rate returns the ids a second that came in a stretch of time.
func (r *Report) Rate(from, to time.Duration) float64 {
	n := 0
	for _, a := range r.Answers {
		for _, t := range a.Times {
			if t > from && t <= to {
				n++
			}
		}
	}
	return float64(n) / (to - from).Seconds()
}

// world is a run.
type world struct {
	pipe     Pipeline
	machine  *driver.Machine
	now      time.Duration
	until    time.Duration
	waiting  []Request       // by time
	live     []*live         // by slot
	stages   []time.Duration // when each device is free
	links    []time.Duration // when each link is free
	results  []*arrival      // on their way to the driver, in order
	guesses  []*guess        // of the draft model, in order
	attempts uint32
	report   Report
}

type live struct {
	Request
	answer  *Answer
	attempt uint32
}

type arrival struct {
	at     time.Duration
	result *frame.Result
}

// guess is what a draft model says at a time.
type guess struct {
	at time.Duration
	driver.Guessed
}

// Run serves requests until all have ended or a time is over. cfg needs no epoch,
// stages, slots, pages or context: there are enough. A fault of the driver is an
// error.
func Run(pipe Pipeline, cfg driver.Config, requests []Request, until time.Duration) (*Report, error) {
	if len(pipe.Links) != len(pipe.Devices) {
		return nil, fmt.Errorf("%d links for %d devices", len(pipe.Links), len(pipe.Devices))
	}
	cfg.Epoch, cfg.Stages, cfg.Slots, cfg.Pages, cfg.Context = 1, len(pipe.Devices), frame.MaxSlots, 1<<20, 1<<20
	cfg.Drafter = pipe.Draft.Each > 0
	machine, err := driver.New(cfg)
	if err != nil {
		return nil, err
	}
	w := &world{
		pipe: pipe, machine: machine, until: until, live: make([]*live, cfg.Slots),
		stages: make([]time.Duration, len(pipe.Devices)), links: make([]time.Duration, len(pipe.Links)),
		waiting: slices.Clone(requests),
	}
	for w.now < w.until {
		more, err := w.advance()
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
	}
	w.report.End, w.report.Stats = w.now, machine.Stats()
	return &w.report, nil
}

// advance lets the next thing happen; false when there is none.
func (w *world) advance() (bool, error) {
	slices.SortStableFunc(w.waiting, func(a, b Request) int { return int(a.At - b.At) })
	next := time.Duration(math.MaxInt64)
	if len(w.waiting) > 0 {
		next = w.waiting[0].At
	}
	if len(w.results) > 0 {
		next = min(next, w.results[0].at)
	}
	switch {
	case len(w.guesses) > 0 && w.guesses[0].at <= next:
		g := w.guesses[0]
		w.guesses = w.guesses[1:]
		w.now = g.at
		return true, w.do(g.Guessed)
	case len(w.results) > 0 && w.results[0].at <= next:
		a := w.results[0]
		w.results = w.results[1:]
		w.now = a.at
		return true, w.deliver(a.result)
	case len(w.waiting) > 0:
		q := w.waiting[0]
		w.waiting = w.waiting[1:]
		w.now = max(w.now, q.At)
		return true, w.submit(q)
	}
	return false, nil
}

// do gives the driver an event and sends its steps.
func (w *world) do(ev driver.Event) error {
	out, err := w.machine.Step(time.Unix(1, 0).Add(w.now), ev)
	if err != nil {
		return err
	}
	for _, f := range out.Send {
		w.send(f)
	}
	for _, q := range out.Wishes {
		w.guess(q)
	}
	for _, p := range out.Prefilled {
		if l := w.live[p.Slot]; l != nil && l.attempt == p.Attempt {
			l.answer.Cached = p.Cached
		}
	}
	for _, c := range out.Closed {
		l := w.live[c.Slot]
		w.live[c.Slot] = nil
		l.answer.Reason = c.Reason
		if l.Last {
			w.until = w.now
		}
		if l.Again {
			q := l.Request.next()
			q.At = w.now
			w.waiting = append(w.waiting, q)
		}
	}
	return nil
}

// guess has the draft model guess, between the steps of the first device.
func (w *world) guess(q driver.Wish) {
	l, d := w.live[q.Open.Slot], w.pipe.Draft
	start := max(w.now, w.stages[0])
	w.stages[0] = start + time.Duration(q.Count)*d.Each
	g := &guess{at: w.stages[0], Guessed: driver.Guessed{Slot: q.Open.Slot, Attempt: q.Open.Attempt, Took: d.Each}}
	for i := range q.Count {
		at := len(q.IDs) + i
		id := l.id(at)
		if die := uint32(l.id(at+1<<20)) * 0x9E3779B9; float64(die) >= d.Right*(1<<32) {
			id++
		}
		g.IDs = append(g.IDs, id)
	}
	w.guesses = append(w.guesses, g)
}

// submit opens a session in a free slot.
func (w *world) submit(q Request) error {
	slot := slices.Index(w.live, nil)
	w.attempts++
	l := &live{Request: q, answer: &Answer{Submitted: w.now}, attempt: w.attempts}
	w.live[slot] = l
	w.report.Answers = append(w.report.Answers, l.answer)
	open := &frame.Open{Slot: frame.Slot(slot), Attempt: l.attempt, AnswerStart: int32(q.Prompt), Weight: q.Weight}
	open.Sampling.MaxTokens = int32(q.Answer)
	ids := make([]int32, q.Prompt)
	for i := range ids {
		ids[i] = q.id(i)
	}
	return w.do(driver.Submit{Open: open, Tokens: ids, Ahead: 32, Schedule: q.Schedule})
}

// id is the text of a session: a function of seed and position.
func (q *Request) id(at int) int32 {
	if q.Period > 0 {
		at %= q.Period
	}
	x := (q.Seed+1)*0x9E3779B97F4A7C15 ^ uint64(at)*0xBF58476D1CE4E5B9
	x ^= x >> 31
	x *= 0x94D049BB133111EB
	return int32(x >> 34)
}

// send takes a step through all stages: each computes one after another, and so
// does each link carry.
func (w *world) send(f *frame.Frame) {
	at, rows := w.now, f.NumRows()
	w.report.Steps++
	w.report.Rows = append(w.report.Rows, rows)
	r := &frame.Result{Epoch: f.Epoch, Pipeline: f.Pipeline, Step: f.Step}
	for i, d := range w.pipe.Devices {
		start := max(at, w.stages[i])
		took := d.cost(f)
		if took > 0 && stalls(f.Step, i) {
			took += d.Stall
		}
		r.Timings = append(r.Timings, frame.Timing{
			Stage: uint32(i), Rows: uint32(rows), ComputeNS: uint64(took), WaitNS: uint64(start - at),
		})
		w.stages[i] = start + took
		at = w.stages[i]
		link := w.pipe.Links[i]
		if bytes := rows * w.pipe.RowBytes; link.Bandwidth > 0 && i < len(w.pipe.Devices)-1 {
			at = max(at, w.links[i]) + time.Duration(float64(bytes)/link.Bandwidth*float64(time.Second))
			w.links[i] = at
		}
		at += link.Latency
	}
	for i := range f.Spans {
		w.sample(r, &f.Spans[i])
	}
	w.results = append(w.results, &arrival{at: at, result: r})
}

// stalls chooses one step of sixteen for each stage.
func stalls(step uint64, stage int) bool {
	x := (step*64 + uint64(stage) + 1) * 0x9E3779B97F4A7C15
	return (x^x>>29)*0xBF58476D1CE4E5B9>>60 == 0
}

// cost is the time of a step. A step of operations alone takes none.
func (d Device) cost(f *frame.Frame) time.Duration {
	if len(f.Spans) == 0 {
		return 0
	}
	took := d.Fixed
	for i := range f.Spans {
		sp := &f.Spans[i]
		n := time.Duration(len(sp.Tokens))
		took += n*d.Row + n*d.Key*time.Duration(int(sp.Start)+len(sp.Tokens)/2)/1024
	}
	return took
}

// sample says what a span samples: after its ids, and after its guesses as long
// as they hold.
func (w *world) sample(r *frame.Result, sp *frame.Span) {
	l := w.live[sp.Slot]
	if int(sp.Start) < l.Prompt {
		l.answer.Chunks = append(l.answer.Chunks, len(sp.Tokens))
	}
	if sp.Output != frame.OutputSample {
		return
	}
	first := len(sp.Tokens) - int(sp.Drafted)
	at := int(sp.Start) + first
	out := frame.Sampled{Slot: sp.Slot, Attempt: sp.Attempt, Position: int32(at)}
	for i := first; ; i++ {
		id := l.id(at)
		at++
		out.IDs = append(out.IDs, id)
		if at >= l.Prompt+l.Answer {
			out.Finish = frame.FinishLength
		}
		if out.Finish != frame.FinishNone || i == len(sp.Tokens) || sp.Tokens[i] != id {
			break
		}
	}
	r.Sampled = append(r.Sampled, out)
}

// deliver gives a result to the driver, and to the coordinator that commits.
func (w *world) deliver(r *frame.Result) error {
	for i := range r.Sampled {
		s := &r.Sampled[i]
		a := w.live[s.Slot].answer
		for _, id := range s.IDs {
			a.IDs, a.Times = append(a.IDs, id), append(a.Times, w.now)
		}
		if err := w.do(driver.Commit{Slot: s.Slot, Attempt: s.Attempt, Length: int(s.Position) + len(s.IDs)}); err != nil {
			return err
		}
	}
	return w.do(driver.Returned{Result: r})
}
