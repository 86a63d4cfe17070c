package coordinator

import (
	"fmt"
	"math/rand/v2"
	"time"
	"unsafe"
)

// simWorld is everything there is in a simulation: one queue of events in virtual
// time, one source of randomness, processes, and the network between them
// (sim_net_test.go). Equal seeds give equal runs.
type simWorld struct {
	seed  uint64
	rng   *rand.Rand
	now   time.Duration // since the beginning
	queue []simEvent    // a heap: the earliest first, of equals the one that was queued first
	count uint64        // events that were queued
	say   func(string)  // a line of the trace; nil: nobody reads it
	wrong []string      // what must not have happened
	bug   simBug

	procs   []*simProc
	watches []*simWatch
	cuts    map[simPair]int // how often a direction is cut
	stuck   []*simEnd       // whose messages wait for the way to be whole
	rude    float64         // how often results come twice
}

// simBug is a fault of the program that is planted to see the simulator find it.
// The seams between the machines are where: no machine knows of it.
type simBug uint8

const (
	simNoBug        simBug = iota
	simFencingOff          // shards obey every coordinator at any time
	simDoubleCommit        // ids that come a second time are taken for new ones
	simStalePage           // a page that is used again keeps what it held
)

// simEvent is something that will happen to a process, unless that ends before.
type simEvent struct {
	at   time.Duration
	seq  uint64
	proc *simProc // nil: to the world
	life int
	do   func()
}

func (e *simEvent) before(o *simEvent) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// simProc is a process: it can be killed, frozen and slowed down, and has a clock.
type simProc struct {
	w        *simWorld
	name     string
	life     int // how often it was started
	alive    bool
	frozen   bool
	deferred []simEvent // of a frozen process
	slow     float64    // times as long as usual
	skew     time.Duration
	ends     []*simEnd
}

func newSimWorld(seed uint64) *simWorld {
	return &simWorld{seed: seed, rng: rand.New(rand.NewPCG(seed, 0x5eed)), cuts: map[simPair]int{}}
}

func (w *simWorld) proc(name string) *simProc {
	p := &simProc{w: w, name: name, slow: 1}
	w.procs = append(w.procs, p)
	return p
}

// trace writes a line of the trace. Callers with costly arguments ask tracing
// first.
func (w *simWorld) trace(who *simProc, format string, args ...any) {
	if w.say == nil {
		return
	}
	name := "world"
	if who != nil {
		name = who.name
	}
	w.say(fmt.Sprintf("%10.4f %-8s %s", w.now.Seconds(), name, fmt.Sprintf(format, args...)))
}

// violate notes what must not happen.
func (w *simWorld) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.trace(nil, "VIOLATION %s", text)
	w.wrong = append(w.wrong, fmt.Sprintf("at %.3f s: %s", w.now.Seconds(), text))
}

// upTo is a random time below d.
func (w *simWorld) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(w.rng.Int64N(int64(d)))
}

func (w *simWorld) between(a, b time.Duration) time.Duration { return a + w.upTo(b-a) }

func (w *simWorld) chance(p float64) bool { return w.rng.Float64() < p }

func simPick[T any](w *simWorld, of ...T) T { return of[w.rng.IntN(len(of))] }

// after has something happen to the world.
func (w *simWorld) after(d time.Duration, do func()) { w.push(simEvent{at: w.now + d, do: do}) }

// after has something happen to the process, if it lives until then.
func (p *simProc) after(d time.Duration, do func()) {
	p.w.push(simEvent{at: p.w.now + d, proc: p, life: p.life, do: do})
}

// work takes the process some time.
func (p *simProc) work(d time.Duration, do func()) { p.after(p.takes(d, simSlowest), do) }

// simSlowest is how many times as long as usual anything takes at most.
const simSlowest = 30

// takes is what a time becomes on a slow process, at most so many times as long.
func (p *simProc) takes(d time.Duration, most float64) time.Duration {
	return time.Duration(float64(d) * min(p.slow, most))
}

func (w *simWorld) push(e simEvent) {
	w.count++
	e.seq = w.count
	q := append(w.queue, e)
	for i := len(q) - 1; i > 0; {
		up := (i - 1) / 2
		if !q[i].before(&q[up]) {
			break
		}
		q[i], q[up] = q[up], q[i]
		i = up
	}
	w.queue = q
}

func (w *simWorld) pop() simEvent {
	q := w.queue
	e, last := q[0], len(q)-1
	q[0] = q[last]
	q[last] = simEvent{}
	q = q[:last]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < last; c++ {
			if q[c].before(&q[least]) {
				least = c
			}
		}
		if least == i {
			break
		}
		q[i], q[least] = q[least], q[i]
		i = least
	}
	w.queue = q
	return e
}

// runUntil lets things happen up to a time, or until stop says so after one.
func (w *simWorld) runUntil(end time.Duration, stop func() bool) {
	for len(w.queue) > 0 && w.queue[0].at <= end && len(w.wrong) == 0 {
		e := w.pop()
		w.now = e.at
		if e.proc == nil {
			e.do()
		} else {
			e.proc.take(e)
		}
		if stop != nil && stop() {
			return
		}
	}
	if len(w.wrong) == 0 {
		w.now = max(w.now, end)
	}
}

// take has an event happen to a process, later if it is frozen.
func (p *simProc) take(e simEvent) {
	switch {
	case !p.alive || e.life != p.life:
	case p.frozen:
		p.deferred = append(p.deferred, e)
	default:
		e.do()
	}
}

func (p *simProc) start() {
	p.life++
	p.alive = true
	p.w.trace(p, "starts")
}

// kill ends the process at once. Its kernel resets what it had open.
func (p *simProc) kill() {
	if !p.alive {
		return
	}
	p.w.trace(p, "is killed")
	p.alive, p.frozen, p.deferred = false, false, nil
	p.life++
	for _, e := range p.ends {
		e.reset("connection reset by peer")
	}
	p.ends = nil
	p.w.look()
}

func (p *simProc) freeze() {
	if p.alive && !p.frozen {
		p.w.trace(p, "is frozen")
		p.frozen = true
		p.w.look()
	}
}

// thaw lets a frozen process go on: what came meanwhile comes now. Whether it
// first sees how long others were silent is chance.
func (p *simProc) thaw() {
	if !p.frozen {
		return
	}
	p.w.trace(p, "goes on")
	p.frozen = false
	late := p.w.chance(0.5)
	if !late {
		p.w.look()
	}
	events := p.deferred
	p.deferred = nil
	for i, e := range events {
		if p.frozen { // by one of them
			p.deferred = append(p.deferred, events[i:]...)
			break
		}
		p.take(e)
	}
	if late {
		p.w.look()
	}
}

// clock is what the process reads from its clocks: the monotonic one is true, the
// wall clock is skewed.
func (p *simProc) clock() time.Time { return simTime(p.w.now, p.skew) }

// simEpoch is where wall clocks begin.
const simEpoch = 1_900_000_000

// simTime is a time with a monotonic reading as time.Now gives it. The two clocks
// cannot be set apart through the time package; a test holds this to what the
// package makes of it.
func simTime(since, skew time.Duration) time.Time {
	wall := time.Unix(simEpoch, 0).Add(since + skew)
	raw := simRawTime{
		wall: 1<<63 | uint64(wall.Unix()+simYear1885)<<30 | uint64(wall.Nanosecond()),
		ext:  int64(since) + 1,
		loc:  time.Local,
	}
	return *(*time.Time)(unsafe.Pointer(&raw))
}

// simRawTime is a time.Time.
type simRawTime struct {
	wall uint64
	ext  int64
	loc  *time.Location
}

// simYear1885 is the seconds from 1885, where times with a monotonic reading begin,
// to 1970.
const simYear1885 = (85*365 + 20) * 24 * 60 * 60
