package coordinator

import (
	"errors"
	"fmt"
	"strings"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// How long things last in a simulation.
const (
	simTrouble = 10 * time.Second // faults begin before
	simLongest = 5 * time.Second  // that a fault lasts
	simPatient = 60 * time.Second // answers that live end so long after the last fault at most
	simSteady  = leaseFor + 2*time.Second
)

// newSimulation draws a small cluster with its clients and faults.
func newSimulation(seed uint64, bug simBug) *simulation {
	w := newSimWorld(seed)
	w.bug = bug
	s := &simulation{
		simWorld: w, cluster: simIdentity("head-1").ClusterID(), model: toyModel(), memory: map[string]uint64{},
		loads: simPick(w, 20*time.Millisecond, 300*time.Millisecond, 2*time.Second),
		step:  simPick(w, 2*time.Millisecond, 20*time.Millisecond, 60*time.Millisecond),
		row:   simPick(w, 10*time.Microsecond, 200*time.Microsecond),
	}
	w.rude = simPick(w, 0, 0.02, 0.2)
	n := 2 + w.rng.IntN(3)
	s.wishes = plan.Wishes{
		MinShards: 1 + w.rng.IntN(n), Sessions: 1 + w.rng.IntN(4), Slots: 1 + w.rng.IntN(6), Rows: simPick(w, 4, 16, 64),
		Settle: simPick(w, 200*time.Millisecond, time.Second), Steady: simPick(w, 500*time.Millisecond, 2*time.Second),
		Losses: simPick(w, 0, 3), Spares: simPick(w, 0, 0, 1), Stages: simPick(w, 0, 0, 2),
	}
	if s.place = simPick(w, plan.Split, plan.Split, plan.Measured); w.chance(0.2) {
		s.place, s.replicas = onePerNode, true
	}
	s.drawNodes(n)
	for i := range 2 + w.rng.IntN(5) {
		s.drawClient(i)
	}
	from, span := time.Duration(0), simTrouble
	if w.chance(0.5) { // all at once
		span = w.between(50*time.Millisecond, 2*time.Second)
		from = w.upTo(simTrouble - span)
	}
	for range w.rng.IntN(8) {
		s.drawFault(from + w.upTo(span))
	}
	return s
}

// drawNodes draws the processes. Together they can hold the model, without any one
// of them perhaps not.
func (s *simulation) drawNodes(n int) {
	const layer, layers = 1 << 20, 4
	var all, least uint64
	for i := range n {
		name := fmt.Sprintf("shard-%d", i+1)
		s.memory[name] = simPick[uint64](s.simWorld, 1, 2, 3, layers+1) * (layer + layer/2)
		if s.replicas {
			s.memory[name] = (layers + 1) * (layer + layer/2)
		}
		all += s.memory[name]
		least = max(least, s.memory[name])
		s.shards = append(s.shards, &simShard{simProc: s.proc(name), s: s})
	}
	if all-least < layers*(layer+layer/2) && all < (layers+1)*(layer+layer/2) {
		s.memory["shard-1"] = (layers + 1) * (layer + layer/2)
	}
	if s.wishes.Spares > 0 || s.wishes.Stages > 0 { // which is honoured only where the model fits so
		s.memory["shard-1"], s.memory["shard-2"] = (layers+1)*(layer+layer/2), (layers+1)*(layer+layer/2)
	}
	for i := range simPick(s.simWorld, 1, 1, 2, 2, 3) {
		name := fmt.Sprintf("head-%d", i+1)
		s.heads = append(s.heads, &simHead{simProc: s.proc(name), s: s, id: simIdentity(name), number: uint8(i + 1)})
	}
	for i := range simPick(s.simWorld, 1, 1, 1, 2) {
		s.gateways = append(s.gateways, &simGateway{simProc: s.proc(fmt.Sprintf("gate-%d", i+1)), s: s})
	}
	for _, sh := range s.shards {
		late := s.upTo(simPick(s.simWorld, 300*time.Millisecond, 5*time.Second))
		s.after(late, func() { s.bootShard(sh) })
	}
	for _, h := range s.heads {
		s.after(s.upTo(simPick(s.simWorld, 300*time.Millisecond, 3*time.Second)), func() { s.bootHead(h) })
	}
	for _, g := range s.gateways {
		s.after(s.upTo(500*time.Millisecond), g.boot)
	}
}

func (s *simulation) drawClient(i int) {
	g := simPick(s.simWorld, s.gateways...)
	c := &simClient{
		g: g, name: fmt.Sprintf("client-%d", i+1), seed: uint64(s.rng.Uint32()), most: 10 + s.rng.IntN(31),
		window: simPick[uint64](s.simWorld, 64, 64, 8, 2), pace: s.upTo(simPick(s.simWorld, time.Millisecond, 50*time.Millisecond, 300*time.Millisecond)),
		leave: -1, since: -1,
	}
	c.prompt = make([]int32, simPick(s.simWorld, 1+s.rng.IntN(10), 1+s.rng.IntN(140)))
	common := simPick(s.simWorld, 0, 64, 128) // ids that others begin with too
	for j := range c.prompt {
		c.prompt[j] = 'x'
		if j >= common {
			c.prompt[j] = int32('a' + s.rng.IntN(20))
		}
	}
	if s.chance(0.2) {
		c.stops = []string{simPick(s.simWorld, "ab", "c.", "é", "\nß")}
	}
	if s.chance(0.15) {
		c.leave = 1 + s.rng.IntN(c.most)
	}
	begin := s.between(500*time.Millisecond, 8*time.Second) // the gateways have started
	if s.chance(0.1) {
		c.within = begin + s.upTo(10*time.Second)
	}
	c.golden = simRun(c.prompt, c.seed, c.most, c.stops)
	g.clients, s.clients = append(g.clients, c), append(s.clients, c)
	s.after(begin, c.start)
	if s.chance(0.1) {
		s.after(begin+s.upTo(6*time.Second), func() { g.after(0, c.stop) })
	}
}

// bootShard starts a shard's process, which gossip tells of.
func (s *simulation) bootShard(sh *simShard) {
	if sh.alive {
		return
	}
	addr := sh.addr
	if addr == "" || s.chance(0.3) {
		addr = fmt.Sprintf("%s:%d", sh.name, sh.life+1)
	}
	sh.boot(addr)
	for _, h := range s.heads {
		if h.alive {
			h.hear(sh, addr, s.between(20*time.Millisecond, 400*time.Millisecond))
		}
	}
}

// drawFault draws a fault. All of them are over in time.
func (s *simulation) drawFault(at time.Duration) {
	lasts := s.between(20*time.Millisecond, simPick(s.simWorld, 500*time.Millisecond, simLongest))
	s.calm = max(s.calm, at+max(lasts, 200*time.Millisecond))
	sh, h := simPick(s.simWorld, s.shards...), simPick(s.simWorld, s.heads...)
	node := simPick(s.simWorld, sh.simProc, h.simProc)
	begin := func(do func(), undo func()) {
		s.after(at, do)
		s.after(at+lasts, undo)
	}
	switch kind := s.rng.IntN(14); kind {
	case 0, 1, 2:
		s.deaths++
		begin(func() { s.killShard(sh) }, func() { s.bootShard(sh) })
	case 3:
		other := simPick(s.simWorld, s.shards...)
		s.deaths += 2
		begin(func() { s.killShard(sh) }, func() { s.bootShard(sh) })
		s.after(at+lasts/3, func() { s.killShard(other) })
		s.after(at+lasts, func() { s.bootShard(other) })
	case 4:
		begin(h.kill, func() {
			s.bootHead(h)
		})
	case 5:
		s.deaths += len(s.shards)
		begin(node.freeze, node.thaw)
	case 6:
		by := 2 + 20*s.rng.Float64()
		begin(func() { node.slow *= by; s.trace(node, "is %.1f times as slow", by) }, func() { node.slow /= by; s.trace(node, "is as fast as before") })
	case 7, 8:
		a, b := simPick(s.simWorld, s.procs...), simPick(s.simWorld, s.procs...)
		if a == b {
			return
		}
		s.deaths += 2
		both := s.chance(0.5)
		var mend, back func()
		begin(func() {
			if mend = s.cut(a, b); both {
				back = s.cut(b, a)
			}
		}, func() {
			if mend(); both {
				back()
			}
		})
	case 9:
		begin(func() { sh.full = true; s.trace(sh.simProc, "its disk is full") }, func() { sh.full = false; s.trace(sh.simProc, "its disk has room") })
	case 10:
		p := simPick(s.simWorld, s.procs...)
		by := simPick(s.simWorld, time.Second, -time.Second, time.Hour, -time.Hour)
		s.skewed += by.Abs()
		s.after(at, func() { p.skew += by; s.trace(p, "its clock steps by %v", by) })
	case 12:
		g := simPick(s.simWorld, s.gateways...)
		if s.chance(0.5) {
			begin(g.freeze, g.thaw)
			return
		}
		begin(g.shut, func() {
			if !g.alive {
				g.boot()
			}
		})
	case 13:
		s.deaths++
		lasts = max(lasts, 200*time.Millisecond)
		begin(func() { s.stopNicely(sh, h) }, func() { s.bootShard(sh); s.bootHead(h) })
	case 11:
		if s.chance(0.5) {
			begin(func() { s.drain(sh, false) }, func() { s.drain(sh, true) })
			return
		}
		begin(func() { // gossip takes it to be gone
			for _, h := range s.heads {
				if h.alive {
					h.hear(sh, "", s.upTo(100*time.Millisecond))
				}
			}
		}, func() {
			for _, h := range s.heads {
				if h.alive && sh.alive {
					h.hear(sh, sh.addr, 200*time.Millisecond+s.upTo(100*time.Millisecond))
				}
			}
		})
	}
}

func (s *simulation) bootHead(h *simHead) {
	if !h.alive {
		h.boot()
	}
}

// killShard kills a shard's process; gossip notices after some seconds.
func (s *simulation) killShard(sh *simShard) {
	if !sh.alive {
		return
	}
	sh.kill()
	life := sh.life
	for _, h := range s.heads {
		if h.alive {
			name := sh.name
			h.after(s.between(3*time.Second, 8*time.Second), func() {
				if sh.life == life {
					delete(h.view, name)
					h.do(h.o.findNodes)
				}
			})
		}
	}
}

// stopNicely stops a shard or a coordinator as an operator does.
func (s *simulation) stopNicely(sh *simShard, h *simHead) {
	if s.chance(0.5) {
		if h.alive && !h.frozen {
			s.trace(h.simProc, "is stopped")
			h.do(h.o.drain)
			s.killSoon(h.simProc, h.kill)
		}
		return
	}
	if sh.alive && !sh.frozen {
		s.trace(sh.simProc, "is stopped")
		for _, k := range sh.keys() {
			sh.blow(sh.parts[k], 0, errors.New("the shard is stopping"))
		}
		if sh.control != nil {
			sh.control.send(&pb.ControlResponse{Message: &pb.ControlResponse_Leaving{Leaving: &pb.Leaving{Reason: "the shard is stopping"}}})
			sh.control.close("the shard is stopping")
			sh.control = nil
		}
		s.killSoon(sh.simProc, func() { s.killShard(sh) })
	}
}

func (s *simulation) killSoon(p *simProc, kill func()) {
	life := p.life
	s.after(s.upTo(100*time.Millisecond), func() {
		if p.life == life {
			kill()
		}
	})
}

// drain asks every coordinator to empty a node, or to use it again.
func (s *simulation) drain(sh *simShard, undo bool) {
	for _, h := range s.heads {
		if h.alive {
			h.after(0, func() { h.do(func() { h.o.step(plan.Drain{Node: sh.name, Undo: undo}) }) })
		}
	}
}

// String says what there is, for the head of a trace.
func (s *simulation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d coordinators, %d gateways; wishes %+v\n", s.seed, len(s.heads), len(s.gateways), s.wishes)
	fmt.Fprintf(&b, "a step takes %v and %v a row, a stage loads in at most %v; results come twice at %v\n", s.step, s.row, s.loads, s.rude)
	for _, sh := range s.shards {
		fmt.Fprintf(&b, "%s has %d KiB\n", sh.name, s.memory[sh.name]>>10)
	}
	for _, c := range s.clients {
		fmt.Fprintf(&b, "%s on %s: prompt of %d, at most %d tokens, window %d, pace %v, stops %q, leaves after %d, deadline %v\n",
			c.name, c.g.name, len(c.prompt), c.most, c.window, c.pace, c.stops, c.leave, c.within)
	}
	return b.String()
}
