package coordinator

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/pkg/compute"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// endless asks for an answer that is as long as it may be, and reads until it
// has begun.
func (r *rig) endless(prompt string) *answer {
	r.t.Helper()
	a := r.relay.ask(5, raw(prompt, 200))
	a.until(tokenNumber(5))
	return a
}

// whole reads an answer to its end and holds it against the prompt that it
// repeats.
func (a *answer) whole(prompt string) {
	a.client.t.Helper()
	a.credit(1000)
	end := a.finish().GetComplete()
	if want := strings.Repeat(prompt, 200)[:200]; a.text != want || end.GetFinishReason() != "length" {
		a.client.t.Errorf("answer %q after %d tokens, %v", a.text, len(a.ids), a.terminal)
	}
}

// phase accepts progress of a phase.
func phase(name string) func(*pb.Event) bool {
	return func(e *pb.Event) bool { return e.GetProgress().GetPhase() == name }
}

func TestAnswersOutliveAShard(t *testing.T) {
	for name, kill := range map[string]func(*fakeShard){
		"killed": func(f *fakeShard) { f.server.Stop() },
		"silent": func(f *fakeShard) { close(f.mute) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil, "a", "b", "c")
			before := r.report("ready", ready)
			prompts := []string{"abc", "defgh", "ij"}
			var answers []*answer
			for _, p := range prompts {
				answers = append(answers, r.endless(p))
			}
			kill(r.shards["b"])
			for i, a := range answers {
				a.until(phase("recovering"))
				a.whole(prompts[i])
			}
			after := r.report("ready again", func(c *pb.ClusterResponse) bool {
				return c.Ready && c.Epoch > before.Epoch && len(c.Models[0].Stages) == 2
			})
			if after.Totals.Failed != 0 || after.Totals.PromptTokens != 10 {
				t.Errorf("totals %v", after.Totals)
			}
			for _, s := range r.wires.opened[len(prompts):] {
				if n := int(s.Open.AnswerStart); s.Open.Attempt <= 3 || len(s.Tokens) < n+5 || s.Open.Sampling.Seed == 0 {
					t.Errorf("submitted again: %v", s)
				}
			}
			for _, a := range answers {
				select {
				case e := <-r.relay.box(a.number):
					t.Errorf("after its terminal: %v", e)
				default:
				}
			}
		})
	}
}

// An answer whose stop string and UTF-8 are cut in two by the loss is what it
// would have been.
func TestTextStateOutlivesAShard(t *testing.T) {
	r := newRig(t, nil, "a", "b")
	r.report("ready", ready)
	text := "caf\u00e9 EN\u00e9 " + strings.Repeat("x", 2*generation.Ahead)
	g := raw(text+"END$", 100)
	g.Stop = []string{"END"}
	a := r.relay.ask(4, g) // the first byte of é
	a.until(tokenNumber(4))
	r.shards["a"].server.Stop()
	a.until(phase("recovering"))
	a.credit(8) // half a stop string
	a.until(tokenNumber(8))
	r.startShard("c")
	r.report("on c too", func(c *pb.ClusterResponse) bool { return c.Ready && len(c.Pipelines[0].Pipeline.Stages) == 2 })
	a.credit(100)
	if end := a.finish().GetComplete(); a.text != text || end.GetStopString() != "END" {
		t.Errorf("text %q, %v", a.text, a.terminal)
	}
}

func TestAnswerWaitsForShards(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	a := r.endless("abc")
	r.shards["a"].server.Stop()
	a.until(phase("waiting"))
	refused := r.relay.ask(1, raw("x", 1))
	if e := refused.finish().GetError(); e.GetCode() != "no_capacity" {
		t.Errorf("a new request: %v", refused.terminal)
	}
	r.startShard("b")
	a.whole("abc")
}

func TestAnswerWaitsNotForEver(t *testing.T) {
	r := newRig(t, func(c *Config, _ *wires) { c.MaxRecovery = 100 * time.Millisecond }, "a")
	r.report("ready", ready)
	a := r.endless("abc")
	r.shards["a"].server.Stop()
	if e := a.finish().GetError(); e.GetCode() != "shard_lost" || !e.GetRetryable() || !strings.Contains(e.GetMessage(), "needs 1 more shard") {
		t.Errorf("%v", a.terminal)
	}
}

// A session whose end was sampled needs no pipeline any more, only its reader.
func TestSampledEndNeedsNoPipeline(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	a := r.relay.ask(1, raw("short$", 50))
	a.until(tokenNumber(1))
	r.wires.wait(t, "the slot is closed", func() bool { return r.wires.closed[1] })
	r.relay.ask(200, raw("x", 200)).whole("x") // its results come after those of the first
	r.shards["a"].server.Stop()
	r.report("nobody is there", func(c *pb.ClusterResponse) bool { return !c.Ready })
	a.credit(50)
	if a.finish(); a.text != "short" || a.terminal.GetComplete() == nil {
		t.Errorf("%q, %v", a.text, a.terminal)
	}
}

func TestAnotherClassIsSaidAloud(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	a := r.endless("abc")
	r.class = "other"
	r.startShard("b")
	r.shards["a"].server.Stop()
	said := a.until(func(e *pb.Event) bool { return e.GetProgress().GetFingerprint() != "" }).GetProgress()
	if said.Fingerprint == a.accepted.Fingerprint || len(said.Notes) != 1 {
		t.Errorf("%v after %v", said, a.accepted.Fingerprint)
	}
	a.whole("abc")
}

// TestPoisonedRequest: a request that shards die of takes two of them, not all,
// and ends alone, also when others came with it.
func TestPoisonedRequest(t *testing.T) {
	r := newRig(t, func(_ *Config, w *wires) { w.poison = '!' }, "a", "b", "c", "d")
	r.report("ready", ready)
	good := []*answer{r.endless("abc")}
	for range 3 {
		good = append(good, r.relay.ask(1000, raw("abc", 200)))
	}
	bad := r.relay.ask(10, raw("bad!", 10))
	for range 3 {
		good = append(good, r.relay.ask(1000, raw("abc", 200)))
	}
	if e := bad.finish().GetError(); e.GetCode() != "request_crashes_shards" || e.GetRetryable() {
		t.Errorf("%v", bad.terminal)
	}
	for _, a := range good {
		a.whole("abc")
	}
	r.report("two are left", func(c *pb.ClusterResponse) bool { return c.Ready && len(c.Pipelines[0].Pipeline.Stages) == 2 })
}

// TestStoppedShardsAreNobodysFault: an answer whose shards are stopped in order, one
// after the other and each while it had a pipeline for itself, is no cause of deaths,
// whichever stream says first that a pipeline has ended.
func TestStoppedShardsAreNobodysFault(t *testing.T) {
	for name, first := range map[string]bool{"said first": true, "said last": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const stops = 2 * maxDeaths
			r := newRig(t, func(_ *Config, w *wires) {
				w.leaves = make(chan bool, stops)
				for range stops {
					w.leaves <- first
				}
			}, "a", "b")
			r.report("ready", ready)
			a := r.relay.ask(1000, raw("abc", 200))
			a.whole("abc")
			if n := len(r.wires.leaves); n > 0 {
				t.Errorf("%d stops were not made: nothing was tested", n)
			}
			after := r.report("all are used again", func(c *pb.ClusterResponse) bool { return c.Ready })
			for _, n := range after.Nodes {
				if strings.Contains(n.Aside, "failed") {
					t.Errorf("%s is blamed: %s", n.Node, n.Aside)
				}
			}
			lost := slices.DeleteFunc(after.Events, func(e *pb.ClusterEvent) bool { return e.Kind != noteNodeLost })
			if len(lost) != stops || lost[0].Text != "it is stopped" {
				t.Errorf("events %v", lost)
			}
		})
	}
}

// TestRestartedShardIsUsed: a node that comes back is used again, without an
// answer being lost for it.
func TestRestartedShardIsUsed(t *testing.T) {
	r := newRig(t, func(c *Config, _ *wires) { c.Wishes.Steady = 50 * time.Millisecond }, "a", "b")
	r.report("ready", ready)
	a := r.endless("abcd")
	r.shards["b"].server.Stop()
	a.until(phase("recovering"))
	r.startShard("c")
	after := r.report("spread again", func(c *pb.ClusterResponse) bool {
		return c.Ready && len(c.Pipelines) == 1 && len(c.Pipelines[0].Pipeline.Stages) == 2
	})
	if got := after.Models[0].Stages; !slices.Equal(got, []string{"a/0 [0..2) embed", "c/0 [2..4) head"}) {
		t.Errorf("stages %v", got)
	}
	a.whole("abcd")
}

// TestDrainMovesAnswers empties node after node under answers: none is
// interrupted, none differs.
func TestDrainMovesAnswers(t *testing.T) {
	r := newRig(t, nil, "a", "b", "c")
	r.report("ready", ready)
	prompts := []string{"abc", "defgh", "ij", "k"}
	var answers []*answer
	for _, p := range prompts {
		answers = append(answers, r.endless(p))
	}
	for i, node := range []string{"c", "a"} {
		r.drain(node, false)
		r.report("drained "+node, func(c *pb.ClusterResponse) bool {
			at := slices.IndexFunc(c.Nodes, func(n *pb.NodeInfo) bool { return n.Node == node })
			return strings.HasSuffix(c.Nodes[at].Aside, "is drained") && len(c.Pipelines) == 1
		})
		for _, a := range answers {
			a.credit(uint64(20 * (i + 1)))
			a.until(tokenNumber(uint64(20 * (i + 1))))
		}
	}
	if why := r.drain("b", false); !strings.Contains(why, "cannot be drained") {
		t.Errorf("the last node: %q", why)
	}
	for i, a := range answers {
		a.whole(prompts[i])
	}
	if after := r.report("all ended", func(c *pb.ClusterResponse) bool { return c.Running == 0 }); after.Totals.Failed > 0 || after.Pipelines[0].FreePages != after.Pipeline.Pages {
		t.Errorf("%v", after)
	}
}

// TestLongAnswersMoveBehindTheirText: on a drain the text of a long session is computed
// where it will be, while it goes on; then it moves. A short one moves at once.
func TestLongAnswersMoveBehindTheirText(t *testing.T) {
	r := newRig(t, nil, "a", "b")
	r.report("ready", ready)
	prompts := []string{strings.Repeat("abcdefg", 2*compute.PageTokens/7+1), "xy"}
	var answers []*answer
	for _, p := range prompts {
		a := r.relay.ask(5, raw(p, 100))
		a.until(tokenNumber(5))
		answers = append(answers, a)
	}
	r.drain("b", false)
	r.report("drained b", func(c *pb.ClusterResponse) bool {
		return len(c.Pipelines) == 1 && c.Pipelines[0].State == "ready" && len(c.Pipelines[0].Pipeline.Stages) == 1 && c.Running == 2
	})
	for i, a := range answers {
		a.credit(1000)
		if end := a.finish().GetComplete(); a.text != strings.Repeat(prompts[i], 100)[:100] || end.GetUsage().GetCachedTokens() != 0 {
			t.Errorf("answer %q, %v", a.text, a.terminal)
		}
	}
	r.wires.mu.Lock()
	defer r.wires.mu.Unlock()
	var long, short []*pb.Submit
	for _, m := range r.wires.opened {
		if m.Tokens[0] == 'a' {
			long = append(long, m)
		} else {
			short = append(short, m)
		}
	}
	if len(long) != 3 || len(short) != 2 {
		t.Fatalf("the long session was opened %d times, the short one %d times; want 3 and 2", len(long), len(short))
	}
	scout, moved := long[1], long[2]
	if n := len(scout.Tokens); scout.Open.Sampling.MaxTokens != 1 || n <= len(prompts[0]) || n > len(moved.Tokens) || !slices.Equal(scout.Tokens, moved.Tokens[:n]) {
		t.Errorf("the scout computes %d ids and answers %d, the session moves with %d", n, scout.Open.Sampling.MaxTokens, len(moved.Tokens))
	}
	if !r.wires.closed[scout.Open.Attempt] {
		t.Error("the session moved before its text was computed")
	}
}

// bothReady accepts a report of two pipelines that serve.
func bothReady(c *pb.ClusterResponse) bool {
	return len(c.Pipelines) == 2 && c.Pipelines[0].State == "ready" && c.Pipelines[1].State == "ready"
}

// TestReplicas: sessions are dealt to both pipelines, and those of one do not
// notice that the other is lost.
func TestReplicas(t *testing.T) {
	r := newRig(t, func(c *Config, _ *wires) { c.Place, c.Wishes.Slots = onePerNode, 3 }, "a", "b")
	r.report("ready", bothReady)
	var answers []*answer
	for range 4 {
		answers = append(answers, r.endless("xyz"))
	}
	info := r.report("dealt", func(c *pb.ClusterResponse) bool { return c.Running == 4 })
	if info.Pipelines[0].Running != 2 || info.Pipelines[1].Running != 2 {
		t.Fatalf("dealt %v", info.Pipelines)
	}
	r.shards["b"].server.Stop()
	moved := 0
	for _, a := range answers {
		if a.accepted.Route[0] == "b/0 [0..4) embed head" {
			moved++
			a.until(phase("recovering"))
		}
		a.whole("xyz")
	}
	if n := len(r.wires.opened); moved != 2 || n != 6 {
		t.Errorf("%d of 4 answers began on b, %d submissions", moved, n)
	}
}

// TestTenantsShareThePlaces: a tenant that floods the waiting line does not keep
// another from its turn.
func TestTenantsShareThePlaces(t *testing.T) {
	r := newRig(t, func(c *Config, _ *wires) { c.Wishes.Slots = 2 }, "a")
	r.report("ready", ready)
	of := func(tenant string, g *pb.Generation) *pb.Generation { g.Tenant = tenant; return g }
	flood := []*answer{r.relay.ask(1, of("x", raw("one", 200))), r.relay.ask(1, of("x", raw("two", 200)))}
	for _, a := range flood {
		a.until(tokenNumber(1))
	}
	for range 3 {
		flood = append(flood, r.relay.ask(1, of("x", raw("more", 200))))
	}
	other := r.relay.ask(100, of("y", raw("mine$", 50)))
	other.until(phase("queued"))
	flood[0].stop()
	if other.finish(); other.text != "mine" {
		t.Errorf("%q, %v", other.text, other.terminal)
	}
}

// TestPromptsGoWhereTheyWere: of two pipelines the one is chosen that has
// computed the prompt's beginning before.
func TestPromptsGoWhereTheyWere(t *testing.T) {
	r := newRig(t, func(c *Config, _ *wires) { c.Place = onePerNode }, "a", "b")
	r.report("ready", bothReady)
	stem := strings.Repeat("0123456789abcdef", 8)
	routes := map[string]bool{}
	for i := range 6 {
		a := r.relay.ask(100, raw(stem+string(rune('a'+i))+"$", 3))
		a.finish()
		routes[a.accepted.GetRoute()[0]] = true
		r.report("its place is free", func(c *pb.ClusterResponse) bool { return c.Pipelines[0].Running+c.Pipelines[1].Running == 0 })
	}
	if len(routes) != 1 {
		t.Errorf("prompts with one beginning went to %v", routes)
	}
}

// TestLateShardHearsThePlan: a shard that comes back while a newer plan is in force
// than it has seen is told of it, so that it gives up what it holds of the older.
func TestLateShardHearsThePlan(t *testing.T) {
	r := newRig(t, func(c *Config, _ *wires) { c.Wishes.Steady = time.Hour }, "a")
	r.report("ready", ready)
	r.startShard("new") // it holds nothing
	r.seen = 1
	r.startShard("b")
	r.wires.wait(t, "the late shard has the plan", func() bool {
		p := r.wires.plans
		return len(p) == 2 && p[1].Epoch == p[0].Epoch
	})
}

// TestSilentGateway: heartbeats of a gateway come back, and one that has sent some and
// is silent for long is cut off; one that never sent any is of an older version.
func TestSilentGateway(t *testing.T) {
	now := time.Now()
	o := newOwner(&Coordinator{cfg: Default(), deps: Deps{Identity: simIdentity("head-1"), Model: toyModel(), Telemetry: telemetry.Nop(), Log: slog.New(slog.DiscardHandler)}})
	o.now = func() time.Time { return now }
	stopped := map[string]int{}
	open := func(name string) *relay {
		r := &relay{node: name, out: newMailbox[*pb.Downward](8), stop: func() { stopped[name]++ }, sessions: map[uint64]*session{}}
		relayOpened{r}.apply(o)
		return r
	}
	r := open("beats")
	open("old")
	pass := func(d time.Duration) {
		for ; d > 0; d -= tickEvery {
			now = now.Add(tickEvery)
			o.cutSilent(now)
		}
	}
	for beat := range uint64(3) {
		pass(relaySilence - tickEvery)
		upward{r, []*pb.Upward{{Message: &pb.Upward_Beat{Beat: beat + 1}}}}.apply(o)
		o.flush()
		if got, err := r.out.take(t.Context()); err != nil || len(got) != 1 || got[0].Beat != beat+1 || got[0].Event != nil {
			t.Errorf("heartbeat %d came back as %v, %v", beat+1, got, err)
		}
	}
	if pass(relaySilence); len(stopped) > 0 {
		t.Errorf("cut off too early: %v", stopped)
	}
	if pass(2 * relaySilence); stopped["beats"] != 1 || stopped["old"] != 0 {
		t.Errorf("cut off: %v", stopped)
	}
}

// TestLostEndIsSampledAgain: an answer whose end was sampled and did not come goes
// on from its committed ids; one that was given up for another reason fails.
func TestLostEndIsSampledAgain(t *testing.T) {
	for reason, again := range map[string]bool{reasonFinished: true, "failed": false} {
		now := time.Now()
		o := newOwner(&Coordinator{cfg: Default(), deps: Deps{Identity: simIdentity("head-1"), Model: toyModel(), Telemetry: telemetry.Nop(), Log: slog.New(slog.DiscardHandler)}})
		o.now = func() time.Time { return now }
		o.forget()
		p := &pipeline{plan: &plan.Pipeline{Context: 256}, slots: make([]slot, 1), free: 4}
		s := &session{relay: &relay{sessions: map[uint64]*session{}}, request: &pb.Generation{}, ready: &prepared{prompt: []int32{'x'}}}
		s.machine = generation.New(generation.Config{Prompt: 1, MaxTokens: 9, Detokenizer: toyText{}.Detokenizer()})
		o.take(s, p)
		o.slotClosed(p, &pb.Closed{Slot: uint32(s.place), Attempt: s.attempt, Reason: reason})
		now = now.Add(closedGrace)
		o.expire(now)
		if s.done || len(o.waiting.queue) > 0 {
			t.Errorf("%s: it was not waited for: done %t", reason, s.done)
		}
		now = now.Add(1)
		o.expire(now)
		if s.done == again || (len(o.waiting.queue) == 1) != again {
			t.Errorf("%s: done %t, %d wait", reason, s.done, len(o.waiting.queue))
		}
	}
}
