package grammar

import (
	"encoding/binary"
	"slices"
)

// Bounds of what an automaton keeps. Beyond them it forgets and computes again,
// or gives up alternatives; a state always keeps one.
const (
	maxStates = 8192
	maxStacks = 1024  // alternatives of a state
	maxSteps  = 16384 // of finding the alternatives behind one byte
	maxMasks  = 128
	maxWork   = 1 << 18 // places visited for one mask: a fraction of a second
)

// node is a place on a stack: an instruction, how often it has been repeated,
// and where its rule returns to. Nodes are shared: a stack is a list of nodes.
type node struct {
	pc, count int32
	parent    *node // nil is the bottom
	least     int32 // bytes to the end of everything, at least
	id        uint64
}

// place identifies a node.
type place struct {
	pc, count int32
	parent    *node
}

// state is a set of stacks, each of which waits for a byte.
type state struct {
	stacks []*node
	done   bool     // the text may end here
	least  int32    // bytes to the nearest end
	next   []*state // by class of byte; nil is not computed
	mask   *mask
}

// dead is the state that nothing leads out of.
var dead = &state{least: endless}

// Automaton runs a grammar against a vocabulary. It computes states as they are
// reached and keeps them (a lazy subset construction with stacks), for all
// matchers of the grammar. It belongs to one goroutine.
type Automaton struct {
	g       *Grammar
	vocab   *Vocabulary
	class   [256]uint8
	sample  []byte // a byte of each class
	nodes   map[place]*node
	states  map[string]*state
	start   *state
	made    uint64
	masks   []*state // whose masks are kept, the longest unused first
	walk    []*state // by depth
	visited map[place]bool
	work    int // places visited for the present mask
}

// NewAutomaton prepares a grammar to run.
func NewAutomaton(g *Grammar, v *Vocabulary) *Automaton {
	a := &Automaton{g: g, vocab: v, walk: make([]*state, v.deep+1), visited: map[place]bool{}}
	a.classify()
	a.forget()
	var found found
	a.close(g.rules[0], 0, nil, &found)
	a.start = a.intern(&found)
	return a
}

// classify divides the bytes into classes that every set has or lacks as one.
func (a *Automaton) classify() {
	byKey := map[string]uint8{}
	key := make([]byte, (len(a.g.sets)+7)/8)
	for c := range 256 {
		clear(key)
		for i := range a.g.sets {
			if a.g.sets[i].has(byte(c)) {
				key[i/8] |= 1 << (i % 8)
			}
		}
		id, ok := byKey[string(key)]
		if !ok {
			id = uint8(len(byKey))
			byKey[string(key)] = id
			a.sample = append(a.sample, byte(c))
		}
		a.class[c] = id
	}
}

// forget drops all states but those that matchers hold, which start over.
func (a *Automaton) forget() {
	for _, s := range a.states {
		s.next = nil
	}
	a.nodes, a.states = map[place]*node{}, map[string]*state{}
}

// step returns the state behind a byte.
func (a *Automaton) step(s *state, c byte) *state {
	if s == dead {
		return dead
	}
	class := a.class[c]
	if s.next == nil {
		s.next = make([]*state, len(a.sample))
	}
	if next := s.next[class]; next != nil {
		return next
	}
	var found found
	a.work += len(s.stacks)
	for _, n := range s.stacks {
		in := &a.g.code[n.pc]
		if a.g.sets[in.a].has(a.sample[class]) {
			a.close(in.b, 0, n.parent, &found)
		}
	}
	next := a.intern(&found)
	if s.next == nil { // intern forgot
		s.next = make([]*state, len(a.sample))
	}
	s.next[class] = next
	return next
}

// found collects the stacks of a new state.
type found struct {
	stacks []*node
	done   bool
	work   []place
}

// close finds what bytes an instruction waits for, through calls, returns and
// alternatives.
func (a *Automaton) close(pc, count int32, parent *node, f *found) {
	clear(a.visited)
	f.work = append(f.work[:0], place{pc, count, parent})
	for len(f.work) > 0 && len(a.visited) < maxSteps {
		p := f.work[len(f.work)-1]
		f.work = f.work[:len(f.work)-1]
		if a.visited[p] {
			continue
		}
		a.visited[p] = true
		a.work++
		in := &a.g.code[p.pc]
		switch in.op {
		case opReturn:
			if p.parent == nil {
				f.done = true
			} else {
				f.work = append(f.work, place{p.parent.pc, p.parent.count, p.parent.parent})
			}
		case opSet:
			f.stacks = append(f.stacks, a.node(p))
		case opSplit:
			f.work = append(f.work, place{in.b, 0, p.parent}, place{in.a, 0, p.parent})
		case opCall:
			back := p.parent
			if a.g.code[in.b].op != opReturn || back == nil {
				back = a.node(place{in.b, 0, p.parent})
			}
			f.work = append(f.work, place{a.g.rules[in.a], 0, back})
		case opRepeat:
			a.repeat(p, in, f)
		}
	}
}

// repeat goes on behind a repetition, into its rule, or both. Without a limit,
// repetitions above the minimum are not counted.
func (a *Automaton) repeat(p place, in *inst, f *found) {
	if p.count >= in.min {
		f.work = append(f.work, place{in.b, 0, p.parent})
	}
	if in.max < 0 || p.count < in.max {
		again := p.count + 1
		if in.max < 0 {
			again = min(again, in.min)
		}
		f.work = append(f.work, place{a.g.rules[in.a], 0, a.node(place{p.pc, again, p.parent})})
	}
}

// node returns the one node of a place.
func (a *Automaton) node(p place) *node {
	if n := a.nodes[p]; n != nil {
		return n
	}
	a.made++
	n := &node{pc: p.pc, count: p.count, parent: p.parent, id: a.made}
	least := int64(a.g.leastOf(p.pc, p.count))
	if p.parent != nil {
		least += int64(p.parent.least)
	}
	n.least = int32(min(least, endless))
	a.nodes[p] = n
	return n
}

// intern returns the one state of a set of stacks.
func (a *Automaton) intern(f *found) *state {
	if len(f.stacks) == 0 && !f.done {
		return dead
	}
	slices.SortFunc(f.stacks, func(x, y *node) int {
		if x.least != y.least {
			return int(x.least) - int(y.least)
		}
		if x.id < y.id {
			return -1
		}
		return int(min(x.id-y.id, 1))
	})
	stacks := slices.Compact(f.stacks)
	stacks = stacks[:min(len(stacks), maxStacks)]
	key := make([]byte, 1, 1+8*len(stacks))
	if f.done {
		key[0] = 1
	}
	for _, n := range stacks {
		key = binary.LittleEndian.AppendUint64(key, n.id)
	}
	if s := a.states[string(key)]; s != nil {
		return s
	}
	if len(a.states) >= maxStates {
		a.forget()
	}
	s := &state{stacks: stacks, done: f.done}
	if !s.done {
		s.least = stacks[0].least
	}
	a.states[string(key)] = s
	return s
}
