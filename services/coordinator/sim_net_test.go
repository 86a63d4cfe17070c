package coordinator

import (
	"errors"
	"slices"
	"time"

	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// The simulated network carries streams as gRPC does over TCP. Within a direction
// of a stream nothing is lost, repeated or out of order; between streams anything
// may overtake anything. A cut holds back what is sent until the way is whole
// again, also the news that a stream has ended, so that who waits learns of a cut by
// missed heartbeats alone. A stream that is reset may lose what was on its way.

// simPair is a direction between two processes.
type simPair struct{ from, to *simProc }

// simEnd is one end of a stream.
type simEnd struct {
	proc *simProc
	life int
	far  *simEnd
	open bool
	dead bool          // it ended before it was there
	last time.Duration // when what was sent last arrives
	held []func()      // what has arrived at a cut
	got  func(m any)
	gone func(err error) // the other side has ended the stream
}

// dial opens a stream; serve gets the other end when the news of it arrives.
func (w *simWorld) dial(from, to *simProc, serve func(e *simEnd)) *simEnd {
	a := &simEnd{proc: from, life: from.life, open: true}
	b := &simEnd{proc: to, far: a}
	a.far = b
	from.keep(a)
	a.carry(func() {
		if !to.alive {
			w.after(w.latency(to, from), func() { a.over("connection refused") })
			return
		}
		if b.dead {
			return
		}
		b.life, b.open = to.life, true // the kernel accepts it
		to.keep(b)
		to.take(simEvent{proc: to, life: to.life, do: func() { serve(b) }})
	})
	return a
}

// keep notes an end of the process, and forgets those that are closed.
func (p *simProc) keep(e *simEnd) {
	if len(p.ends) > 32 {
		p.ends = slices.DeleteFunc(p.ends, func(e *simEnd) bool { return !e.open })
	}
	p.ends = append(p.ends, e)
}

// latency is the time of a message between two processes.
func (w *simWorld) latency(from, to *simProc) time.Duration {
	d := w.between(50*time.Microsecond, time.Millisecond)
	if w.chance(0.01) {
		d += w.upTo(30 * time.Millisecond)
	}
	return max(from.takes(d, simSlowest), to.takes(d, simSlowest))
}

// carry has arrive happen at the other side, after all that was sent before.
func (e *simEnd) carry(arrive func()) {
	w := e.proc.w
	at := max(w.now+w.latency(e.proc, e.far.proc), e.last)
	e.last = at
	w.after(at-w.now, func() {
		if len(e.held) > 0 || w.cuts[simPair{e.proc, e.far.proc}] > 0 {
			e.hold(arrive)
			return
		}
		arrive()
	})
}

func (e *simEnd) hold(arrive func()) {
	if len(e.held) == 0 {
		e.proc.w.stuck = append(e.proc.w.stuck, e)
	}
	e.held = append(e.held, arrive)
}

// send sends a message.
func (e *simEnd) send(m any) {
	if !e.open {
		return
	}
	far := e.far
	e.carry(func() {
		far.proc.take(simEvent{proc: far.proc, life: far.life, do: func() {
			if far.open && far.got != nil {
				far.got(m)
			}
		}})
	})
}

// close ends the stream behind what was sent.
func (e *simEnd) close(why string) {
	if e.open {
		e.open = false
		e.carry(func() { e.far.over(why) })
	}
}

// reset ends the stream at once: what is on its way may be lost.
func (e *simEnd) reset(why string) {
	w := e.proc.w
	if !e.open {
		return
	}
	if w.chance(0.5) {
		e.close(why)
		return
	}
	e.open = false
	arrive := func() { e.far.over(why) }
	w.after(w.latency(e.proc, e.far.proc), func() {
		if w.cuts[simPair{e.proc, e.far.proc}] > 0 {
			e.hold(arrive)
			return
		}
		arrive()
	})
}

// over tells this end that the stream has ended.
func (e *simEnd) over(why string) {
	if e.life == 0 {
		e.dead = true
		return
	}
	e.proc.take(simEvent{proc: e.proc, life: e.life, do: func() {
		if !e.open {
			return
		}
		e.open = false
		if e.gone != nil {
			e.gone(errors.New(why))
		}
	}})
}

// cut cuts a direction; the returned function mends it.
func (w *simWorld) cut(from, to *simProc) (mend func()) {
	p := simPair{from, to}
	w.trace(nil, "the way from %s to %s is cut", from.name, to.name)
	w.cuts[p]++
	w.look()
	return func() {
		w.trace(nil, "the way from %s to %s is mended", from.name, to.name)
		w.cuts[p]--
		w.look()
		stuck := w.stuck
		w.stuck = nil
		for _, e := range stuck {
			if w.cuts[simPair{e.proc, e.far.proc}] > 0 {
				w.stuck = append(w.stuck, e)
				continue
			}
			w.after(w.upTo(300*time.Millisecond), e.release) // TCP tries again
		}
	}
}

// release lets go what was held back.
func (e *simEnd) release() {
	w := e.proc.w
	if w.cuts[simPair{e.proc, e.far.proc}] > 0 {
		w.stuck = append(w.stuck, e)
		return
	}
	held := e.held
	e.held = nil
	for _, arrive := range held {
		arrive()
	}
}

// simWatch is the heartbeat of a connection, wire.Beat: who watches gives up when
// there was no answer for too long. Heartbeats are not sent one by one: what
// silences them is looked at when it begins and ends.
type simWatch struct {
	from, to *simProc
	life     int
	after    time.Duration
	since    time.Duration // of the silence; -1 is none
	done     bool
	lost     func(err error)
}

// watch begins heartbeats.
func (w *simWorld) watch(from, to *simProc, after time.Duration, lost func(err error)) *simWatch {
	b := &simWatch{from: from, to: to, life: from.life, after: after, since: -1, lost: lost}
	w.watches = append(w.watches, b)
	b.look()
	return b
}

var errSimSilent = errors.New("no heartbeat for " + wire.LostAfter.String())

func (w *simWorld) silent(a, b *simProc) bool {
	return a.frozen || b.frozen || w.cuts[simPair{a, b}] > 0 || w.cuts[simPair{b, a}] > 0
}

// look looks at all heartbeats after something may have silenced them.
func (w *simWorld) look() {
	kept := w.watches[:0]
	for _, b := range w.watches {
		if !b.done && b.from.life == b.life {
			kept = append(kept, b)
		}
	}
	clear(w.watches[len(kept):])
	w.watches = kept
	for _, b := range kept {
		b.look()
	}
}

func (b *simWatch) look() {
	w := b.from.w
	switch silent := w.silent(b.from, b.to); {
	case !silent:
		b.since = -1
	case b.since < 0:
		since := w.now
		b.since = since
		b.from.after(b.after+w.upTo(wire.BeatEvery*3/2), func() {
			if !b.done && b.since == since {
				b.done = true
				b.lost(errSimSilent)
			}
		})
	}
}

// hello shakes hands with the shard at an address.
func (s *simulation) hello(from *simProc, addr string, then func(h *pb.HelloResponse, to *simShard, err error)) {
	var to *simShard
	for _, sh := range s.shards {
		if sh.addr == addr {
			to = sh
		}
	}
	if to == nil {
		from.after(time.Millisecond, func() { then(nil, nil, errors.New("connection refused at "+addr)) })
		return
	}
	answered := false
	answer := func(h *pb.HelloResponse, err error) {
		if !answered {
			answered = true
			then(h, to, err)
		}
	}
	e := s.dial(from, to.simProc, func(e *simEnd) {
		if to.addr != addr { // it has moved since
			e.close("connection refused")
			return
		}
		to.hello(e)
	})
	e.got = func(m any) { answer(m.(*pb.HelloResponse), nil) }
	e.gone = func(err error) { answer(nil, err) }
	from.after(helloTimeout, func() { answer(nil, errors.New("no answer to the handshake")) })
}
