package coordinator

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// How the simulation of TestSimOtherPipelines goes.
const (
	othersBegin = 1500 * time.Millisecond // answers are asked for
	othersKill  = 3 * time.Second
	othersEnd   = 20 * time.Second
	othersMost  = 200 // tokens of an answer
	othersEach  = 4   // answers on each of the two pipelines
)

// pairsOfNodes is a placer that makes a pipeline of every two nodes, in order of their
// names.
func pairsOfNodes(f plan.Facts) (plan.Placement, error) {
	var out plan.Placement
	out.Pipelines = append(out.Pipelines, f.Leaving...)
	var pair []plan.Node
	for _, n := range f.Nodes {
		if slices.ContainsFunc(slices.Concat(f.Kept, f.Leaving), func(p *plan.Pipeline) bool { return p.OfNode(n.ID) >= 0 }) {
			continue
		}
		if pair = append(pair, n); len(pair) < 2 {
			continue
		}
		p, err := plan.Split(plan.Facts{Model: f.Model, Wishes: f.Wishes, Nodes: pair})
		if err != nil {
			return out, err
		}
		out.Pipelines, pair = append(out.Pipelines, p.Pipelines...), nil
	}
	return out, nil
}

// newOthers is two replicas of two stages each, with slots for so many answers, and a fifth
// node. Steps take 10 ms, and each row 0.1 ms more.
func newOthers(seed uint64, slots int) *simulation {
	w := newSimWorld(seed)
	s := &simulation{
		simWorld: w, cluster: simIdentity("head-1").ClusterID(), model: toyModel(), memory: map[string]uint64{},
		loads: 300 * time.Millisecond, step: 10 * time.Millisecond, row: 100 * time.Microsecond, place: pairsOfNodes,
		wishes: plan.Wishes{MinShards: 5, Sessions: slots, Slots: slots, Rows: 32, Settle: 200 * time.Millisecond, Steady: time.Hour, Stages: 2},
	}
	for i := range 5 {
		sh := &simShard{simProc: s.proc(fmt.Sprintf("shard-%d", i+1)), s: s}
		s.memory[sh.name] = 64 << 20
		s.shards = append(s.shards, sh)
		s.after(0, func() { s.bootShard(sh) })
	}
	h := &simHead{simProc: s.proc("head-1"), s: s, id: simIdentity("head-1"), number: 1}
	g := &simGateway{simProc: s.proc("gate-1"), s: s}
	s.heads, s.gateways = []*simHead{h}, []*simGateway{g}
	s.after(0, func() { s.bootHead(h) })
	s.after(0, g.boot)
	for i := range 2 * othersEach {
		c := &simClient{
			g: g, name: fmt.Sprintf("client-%d", i+1), most: othersMost, window: 64, leave: -1, since: -1,
			prompt: make([]int32, 40),
		}
		for j := range c.prompt {
			c.prompt[j] = int32('a' + s.rng.IntN(20))
		}
		for len(c.golden.ids) < c.most { // a long answer that nobody guesses
			c.seed = 3*uint64(s.rng.Uint32()) + 1
			c.golden = simRun(c.prompt, c.seed, c.most, nil)
		}
		g.clients, s.clients = append(g.clients, c), append(s.clients, c)
		s.after(othersBegin+s.upTo(500*time.Millisecond), c.start)
	}
	return s
}

// othersGaps runs it and returns the times between tokens, after the moment of the kill,
// of the answers on the pipeline that loses nothing.
func othersGaps(t *testing.T, seed uint64, slots int, kill bool) (gaps []float64) {
	t.Helper()
	s := newOthers(seed, slots)
	var others []*simClient
	s.after(othersKill, func() {
		h := s.heads[0]
		for _, one := range h.o.placed() {
			c := s.gateways[0].link.open[one.number]
			if c != nil && one.pipe.plan.OfNode("shard-3") >= 0 {
				others = append(others, c)
				c.times = []time.Duration{s.now}
			}
		}
		if kill {
			s.killShard(s.shards[1])
		}
	})
	s.runUntil(othersEnd, nil)
	if len(s.wrong) > 0 || len(others) != othersEach {
		t.Fatalf("seed %d: %d answers are on the other pipeline: %v", seed, len(others), s.wrong)
	}
	for _, c := range s.clients {
		if len(c.ids) != len(c.golden.ids) {
			t.Errorf("seed %d: %s has %d tokens of %d", seed, c.name, len(c.ids), len(c.golden.ids))
		}
	}
	if kill == (s.tally.moved == 0) {
		t.Errorf("seed %d: %d answers moved", seed, s.tally.moved)
	}
	for _, c := range others {
		for i := 2; i < len(c.times); i++ { // the first has begun before
			gaps = append(gaps, (c.times[i] - c.times[i-1]).Seconds())
		}
	}
	return gaps
}

// TestSimOtherPipelines: where one of two replicas on simulated devices loses a stage, the
// answers of the other go on at their pace while the interrupted ones wait for what
// replaces theirs. Where there is room the interrupted ones go to the other at once, and
// the computing of their ids is between its steps: what that costs is measured too.
func TestSimOtherPipelines(t *testing.T) {
	const seeds = 20
	var figures []measure.Figure
	for _, c := range []struct {
		name  string
		slots int
	}{{"others_intertoken_p99", othersEach}, {"others_intertoken_p99_with_room", 2 * othersEach}} {
		var before, after []float64
		for seed := range uint64(seeds) {
			before = append(before, othersGaps(t, seed, c.slots, false)...)
			after = append(after, othersGaps(t, seed, c.slots, true)...)
		}
		p99 := func(v []float64) float64 { slices.Sort(v); return v[len(v)*99/100] }
		ratio := p99(after) / p99(before)
		t.Logf("%d slots: p99 between tokens %.1f ms, with a loss elsewhere %.1f ms: %.3f times (%d and %d tokens)",
			c.slots, 1000*p99(before), 1000*p99(after), ratio, len(before), len(after))
		if ratio > 1.1 && c.slots == othersEach { // in virtual time: it is the same everywhere
			t.Errorf("%d slots: the others wait %.3f times as long for a token", c.slots, ratio)
		}
		f := simFigure(c.name, "times the p99 between tokens without a loss, of the replica that loses nothing, simulated devices", ratio)
		f.Runs = seeds
		figures = append(figures, f)
	}
	if file := os.Getenv("SHOAL_SIM_SAVE"); file != "" {
		if err := measure.Save(file, figures); err != nil {
			t.Error(err)
		}
	}
}
