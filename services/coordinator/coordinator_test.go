package coordinator

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

func raw(text string, max int32) *pb.Generation {
	return &pb.Generation{Input: &pb.Generation_Raw{Raw: text}, Sampling: &pb.Sampling{MaxTokens: max}}
}

func chat(contents ...string) *pb.Generation {
	c := &pb.Chat{}
	for i, text := range contents {
		c.Messages = append(c.Messages, &pb.Message{Role: []string{"user", "bot"}[i%2], Content: text})
	}
	return &pb.Generation{Input: &pb.Generation_Chat{Chat: c}, Sampling: &pb.Sampling{MaxTokens: 4}}
}

func TestOneAnswer(t *testing.T) {
	r := newRig(t, nil, "a", "b")
	info := r.report("ready", ready)
	if got := info.Models[0]; got.State != "ready" || got.Fingerprint == "" || !slices.Equal(got.Stages, []string{"a/0 [0..2) embed", "b/0 [2..4) head"}) {
		t.Errorf("model %v", got)
	}
	a := r.relay.ask(100, raw("hello world$", 100))
	end := a.finish().GetComplete()
	if a.text != "hello world" || end.GetFinishReason() != "stop" {
		t.Errorf("text %q, %v", a.text, a.terminal)
	}
	if u := end.GetUsage(); u.GetPromptTokens() != 12 || u.GetCompletionTokens() != 11 {
		t.Errorf("usage %v", u)
	}
	if a.accepted.Fingerprint != info.Models[0].Fingerprint || a.accepted.Seed >= 1<<53 || len(a.accepted.PromptIds) != 12 || len(a.accepted.Route) != 2 {
		t.Errorf("accepted %v", a.accepted)
	}
}

func TestEveryGenerationGetsItsOwnAnswer(t *testing.T) {
	r := newRig(t, nil, "a", "b")
	r.report("ready", ready)
	other := r.connect("gw2")
	var answers []*answer
	for i := range 20 {
		from := []*client{r.relay, other}[i%2]
		answers = append(answers, from.ask(100, raw(strings.Repeat(string(rune('a'+i)), i+1)+"$", 50)))
	}
	for i, a := range answers {
		a.finish()
		if want := strings.Repeat(string(rune('a'+i)), i+1); a.text != want || a.terminal.GetComplete() == nil {
			t.Errorf("answer %d is %q, want %q: %v", i, a.text, want, a.terminal)
		}
	}
}

// tokenNumber accepts the token with a sequence number.
func tokenNumber(seq uint64) func(*pb.Event) bool {
	return func(e *pb.Event) bool { return e.GetToken().GetSeq() == seq }
}

func TestReaderSetsThePace(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	a := r.relay.ask(3, raw("0123456789", 200))
	a.until(tokenNumber(3))
	other := r.relay.ask(200, raw("x$", 20)) // it is answered while the first waits
	if other.finish(); other.text != "x" {
		t.Errorf("the other answer is %q: %v", other.text, other.terminal)
	}
	a.credit(200)
	if end := a.finish().GetComplete(); end.GetFinishReason() != "length" || len(a.ids) != 200 {
		t.Errorf("%d tokens, %v", len(a.ids), a.terminal)
	}
}

func TestStopHalts(t *testing.T) {
	r := newRig(t, nil, "a", "b")
	r.report("ready", ready)
	a := r.relay.ask(2, raw("endless", 200))
	a.until(tokenNumber(2))
	a.stop()
	if end := a.finish().GetStopped(); end.GetReason() != "client" || end.GetUsage().GetCompletionTokens() != 2 {
		t.Errorf("%v", a.terminal)
	}
	attempt := r.wires.opened[0].Open.Attempt
	r.wires.wait(t, "the driver is halted and closes the slot", func() bool { return r.wires.halted[attempt] && r.wires.closed[attempt] })
	r.report("nothing runs", func(c *pb.ClusterResponse) bool { return c.Running == 0 && c.Waiting == 0 })
}

func TestGatewayThatLeavesHaltsItsGenerations(t *testing.T) {
	r := newRig(t, nil, "a", "b")
	r.report("ready", ready)
	leaving := r.connect("gw2")
	stays := r.relay.ask(1, raw("ab", 200))
	stays.until(tokenNumber(1))
	goes := leaving.ask(1, raw("cd", 200))
	goes.until(tokenNumber(1))
	leaving.cancel()
	attempt := r.wires.opened[1].Open.Attempt
	r.wires.wait(t, "its session is halted", func() bool { return r.wires.halted[attempt] })
	stays.credit(200)
	if stays.finish(); stays.terminal.GetComplete() == nil {
		t.Errorf("the other gateway's answer: %v", stays.terminal)
	}
}

func TestStopStrings(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	g := raw("one END two", 100)
	g.Stop = []string{"END"}
	a := r.relay.ask(100, g)
	if end := a.finish().GetComplete(); a.text != "one " || end.GetFinishReason() != "stop" || end.GetStopString() != "END" {
		t.Errorf("text %q, %v", a.text, a.terminal)
	}
	half := raw("one EN$", 100)
	half.Stop = []string{"END"}
	b := r.relay.ask(100, half)
	if end := b.finish().GetComplete(); b.text != "one EN" || end.GetText() != "EN" {
		t.Errorf("text %q, %v", b.text, b.terminal)
	}
}

func TestQueueIsFairAndBounded(t *testing.T) {
	r := newRig(t, func(c *Config, _ *wires) { c.Wishes.Slots, c.MaxWaiting = 1, 2 }, "a")
	r.report("ready", ready)
	running := r.relay.ask(1, raw("first", 200))
	running.until(tokenNumber(1))
	queued := []*answer{r.relay.ask(100, raw("second$", 50))}
	queued[0].until(func(e *pb.Event) bool { return e.GetProgress().GetPhase() == "queued" })
	queued = append(queued, r.relay.ask(100, raw("third$", 50)))
	queued[1].until(func(e *pb.Event) bool { p := e.GetProgress(); return p.GetPhase() == "queued" && p.GetDone() == 1 })
	refused := r.relay.ask(100, raw("fourth", 50))
	if e := refused.finish().GetError(); e.GetCode() != "rate_limit_exceeded" || !e.GetRetryable() {
		t.Errorf("over the bound: %v", refused.terminal)
	}
	running.stop()
	running.finish()
	for i, want := range []string{"second", "third"} {
		if queued[i].finish(); queued[i].text != want {
			t.Errorf("queued %d: %q, %v", i, queued[i].text, queued[i].terminal)
		}
	}
	if a, b := r.wires.opened[1], r.wires.opened[2]; len(a.Tokens) != 7 || len(b.Tokens) != 6 || a.Open.Attempt == b.Open.Attempt {
		t.Errorf("not first in, first out: %v, %v", a, b)
	}
}

func TestKVPagesAreReserved(t *testing.T) {
	r := newRig(t, func(c *Config, _ *wires) { c.Wishes.Sessions = 1 }, "a") // four pages
	r.report("ready", ready)
	big := r.relay.ask(1, raw("abc", 150)) // three of them
	big.until(tokenNumber(1))
	small := r.relay.ask(100, raw("x$", 60)) // the fourth
	if small.finish(); small.text != "x" {
		t.Errorf("what fits: %q %v", small.text, small.terminal)
	}
	waits := r.relay.ask(100, raw("yz$", 70)) // two
	waits.until(func(e *pb.Event) bool { return e.GetProgress().GetPhase() == "queued" })
	big.stop()
	big.finish()
	if waits.finish(); waits.text != "yz" {
		t.Errorf("what waited: %q %v", waits.text, waits.terminal)
	}
}

func TestNoShardNoAnswer(t *testing.T) {
	r := newRig(t, func(c *Config, _ *wires) { c.Wishes.MinShards = 2 }, "a")
	r.report("the shard joined", func(c *pb.ClusterResponse) bool {
		return len(c.Nodes) == 1 && c.Nodes[0].State == "ready" && c.Reason == "needs 1 more shard: 1 of 2 are here"
	})
	a := r.relay.ask(1, raw("x", 1))
	if e := a.finish().GetError(); e.GetCode() != "no_capacity" || !strings.Contains(e.GetMessage(), "needs 1 more shard") {
		t.Errorf("%v", a.terminal)
	}
	r.startShard("b")
	r.report("ready", ready)
}

func TestEpochIsHigherThanAnyThatShardsHaveSeen(t *testing.T) {
	const seen = 5000<<8 | 3
	r := newRig(t, func(c *Config, w *wires) { w.epoch = seen }, "a", "b")
	info := r.report("ready", ready)
	if info.Epoch <= seen || info.Epoch&0xff != 0 || len(info.Models[0].Stages) != 2 {
		t.Errorf("epoch %d after %d, %v", info.Epoch, seen, info.Models[0].Stages)
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	with := func(change func(*pb.Generation)) *pb.Generation {
		g := raw("hi", 10)
		change(g)
		return g
	}
	long := strings.Repeat("x", 300)
	for name, c := range map[string]struct {
		g           *pb.Generation
		code, param string
	}{
		"unknown model":        {with(func(g *pb.Generation) { g.Model = strings.Repeat("../", 5000) }), "model_not_found", "model"},
		"precision":            {with(func(g *pb.Generation) { g.Precision = "int2" }), "unsupported_option", "precision"},
		"KV bits":              {with(func(g *pb.Generation) { g.Kv = &pb.KvOptions{Bits: 4} }), "unsupported_option", "kv.bits"},
		"temperature":          {with(func(g *pb.Generation) { g.Sampling.Temperature = -1 }), "invalid_request_error", "temperature"},
		"bias of no token":     {with(func(g *pb.Generation) { g.Sampling.Bias = []*pb.LogitBias{{Id: toyVocab}} }), "invalid_request_error", "logit_bias"},
		"empty stop":           {with(func(g *pb.Generation) { g.Stop = []string{""} }), "invalid_request_error", "stop"},
		"17 stops":             {with(func(g *pb.Generation) { g.Stop = slices.Repeat([]string{"x"}, 17) }), "invalid_request_error", "stop"},
		"no input":             {&pb.Generation{}, "invalid_request_error", "messages"},
		"no messages":          {chat(), "invalid_request_error", "messages"},
		"long text":            {raw(long, 10), "context_length_exceeded", "messages"},
		"ten million bytes":    {raw(strings.Repeat("a", 1e7), 10), "context_length_exceeded", "messages"},
		"long chat":            {chat("a", long), "context_length_exceeded", "messages"},
		"resumption, no seed":  {with(func(g *pb.Generation) { g.Input = &pb.Generation_Resumption{Resumption: &pb.Resumption{}} }), "invalid_request_error", "seed"},
		"resumption, bad id":   {resumption([]int32{1, -1}, nil), "invalid_request_error", "resumption"},
		"resumption, too many": {resumption([]int32{1}, make([]int32, 11)), "invalid_request_error", "resumption"},
	} {
		a := r.relay.ask(10, c.g)
		if e := a.finish().GetError(); e.GetCode() != c.code || e.GetParam() != c.param || e.GetRetryable() || len(e.GetMessage()) > 300 {
			t.Errorf("%s: %v, want %s of %s", name, a.terminal, c.code, c.param)
		}
	}
	if n := len(r.wires.opened); n != 0 {
		t.Errorf("%d refused requests reached a shard", n)
	}
}

func resumption(prompt, committed []int32) *pb.Generation {
	return &pb.Generation{
		Input:    &pb.Generation_Resumption{Resumption: &pb.Resumption{Id: "gen-1", PromptIds: prompt, CommittedIds: committed}},
		Sampling: &pb.Sampling{MaxTokens: 10, Seed: 7}, SeedSet: true,
	}
}

func TestLimitsAreClampedAloud(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	for name, c := range map[string]struct {
		g     *pb.Generation
		max   uint32
		notes int
	}{
		"more than the context":          {raw("abcdef", 1000), 250, 1},
		"nothing said":                   {raw("abcdef", 0), 250, 0}, // 500, of which 250 fit
		"the rest of the context wished": {&pb.Generation{Input: &pb.Generation_Raw{Raw: "abcdef"}, MaxTokensClamp: true}, 250, 0},
		"a smaller context":              {&pb.Generation{Input: &pb.Generation_Raw{Raw: "abcdef"}, Kv: &pb.KvOptions{MaxSeqLen: 20}}, 14, 0},
		"a larger context":               {&pb.Generation{Input: &pb.Generation_Raw{Raw: "abcdef"}, Kv: &pb.KvOptions{MaxSeqLen: 9000}}, 250, 1},
	} {
		a := r.relay.ask(1000, c.g)
		if end := a.finish().GetComplete(); end.GetFinishReason() != "length" || len(a.ids) != int(c.max) ||
			a.accepted.GetMaxTokens() != c.max || len(a.accepted.GetNotes()) != c.notes {
			t.Errorf("%s: %d tokens, %v, accepted %v", name, len(a.ids), a.terminal, a.accepted)
		}
	}
}

func TestTruncationDropsTheOldestTurns(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	g := chat("system text", strings.Repeat("x", 120), strings.Repeat("y", 120), strings.Repeat("z", 60), "last")
	g.GetChat().Messages[0].Role = "system"
	g.Truncate = true
	a := r.relay.ask(100, g)
	a.finish()
	var prompt []byte
	for _, id := range a.accepted.GetPromptIds() {
		prompt = append(prompt, byte(id))
	}
	text := string(prompt)
	if !strings.HasPrefix(text, "system: system text\nuser: yyy") || !strings.HasSuffix(text, "user: last\n") || strings.Contains(text, "xxx") || len(a.accepted.GetNotes()) != 1 {
		t.Errorf("prompt %q, notes %v, %v", text, a.accepted.GetNotes(), a.terminal)
	}
}

func TestDeadlines(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	late := raw("x", 10)
	late.DeadlineMs = time.Now().Add(-time.Second).UnixMilli()
	if a := r.relay.ask(1, late); a.finish().GetStopped().GetReason() != "deadline" {
		t.Errorf("after its deadline: %v", a.terminal)
	}
	soon := raw("endless", 200)
	soon.DeadlineMs = time.Now().Add(2 * time.Second).UnixMilli()
	if a := r.relay.ask(1, soon); a.finish().GetStopped().GetReason() != "deadline" || len(a.ids) > 1 {
		t.Errorf("at its deadline: %v", a.terminal)
	}
	if n := len(r.wires.opened); n != 1 {
		t.Errorf("%d sessions reached the driver, want the second alone", n)
	}
}

func TestResumptionContinuesTheAnswer(t *testing.T) {
	r := newRig(t, nil, "a", "b")
	r.report("ready", ready)
	g := raw("caf\u00e9 and more$", 40)
	g.Sampling.Temperature, g.Sampling.Seed, g.SeedSet = 1, 42, true
	whole := r.relay.ask(100, g)
	whole.finish()
	for cut := range len(whole.ids) {
		again := &pb.Generation{Sampling: g.Sampling, SeedSet: true, Input: &pb.Generation_Resumption{Resumption: &pb.Resumption{
			Id: whole.accepted.Id, PromptIds: whole.accepted.PromptIds, CommittedIds: whole.ids[:cut], Fingerprint: whole.accepted.Fingerprint,
		}}}
		a := r.relay.ask(100, again)
		a.finish()
		if !slices.Equal(a.ids, whole.ids[cut:]) || !strings.HasSuffix(whole.text, a.text) || a.accepted.Id != whole.accepted.Id || len(a.accepted.Notes) != 0 {
			t.Errorf("resumed after %d: %q (%v), accepted %v", cut, a.text, a.terminal, a.accepted)
		}
		if u := a.terminal.GetComplete().GetUsage(); int(u.GetCompletionTokens()) != len(whole.ids) {
			t.Errorf("resumed after %d: usage %v", cut, u)
		}
		s := r.wires.opened[len(r.wires.opened)-1]
		if int(s.Open.AnswerStart) != len(whole.accepted.PromptIds) || len(s.Tokens) != len(whole.accepted.PromptIds)+cut || s.Open.Sampling.Seed != 42 {
			t.Errorf("submitted %v", s)
		}
	}
	other := resumption(whole.accepted.PromptIds, nil)
	other.GetResumption().Fingerprint = "fp-other"
	a := r.relay.ask(100, other)
	if a.finish(); len(a.accepted.GetNotes()) != 1 {
		t.Errorf("another class is not said aloud: %v", a.accepted)
	}
}

func TestOnlyGatewaysRelay(t *testing.T) {
	r := newRig(t, nil)
	for role, want := range map[pki.Role]codes.Code{pki.Shard: codes.PermissionDenied, pki.Operator: codes.PermissionDenied} {
		c := pb.NewCoordinatorServiceClient(r.dial("x", role))
		stream, err := c.Relay(t.Context())
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %v", role, err, want)
		}
		if _, err := c.Cluster(t.Context(), &pb.ClusterRequest{}); err != nil {
			t.Errorf("%s asks for the cluster: %v", role, err)
		}
	}
	stranger, err := pki.New(pki.NewSecret(), pki.Node{ID: "gw", Roles: []pki.Role{pki.Gateway}})
	if err != nil {
		t.Fatal(err)
	}
	r2 := *r
	r2.secret = pki.NewSecret()
	c := pb.NewCoordinatorServiceClient(r2.dial(stranger.NodeID(), pki.Gateway))
	if _, err := c.Cluster(t.Context(), &pb.ClusterRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a stranger: %v", err)
	}
}

func TestShutdownSaysGoodbye(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	a := r.relay.ask(1, raw("endless", 200))
	a.until(tokenNumber(1))
	r.end()
	if a.finish().GetStopped().GetReason() != "drain" {
		t.Errorf("%v", a.terminal)
	}
}

func TestConfigNamesTheFlag(t *testing.T) {
	for flag, change := range map[string]func(*Config){
		"--stages":      func(c *Config) { c.Wishes.Stages = -1 },
		"--slots":       func(c *Config) { c.Wishes.Slots = 0 },
		"--rows":        func(c *Config) { c.Wishes.Rows = 1 << 20 },
		"--max-waiting": func(c *Config) { c.MaxWaiting = 0 },
	} {
		c := Default()
		change(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), flag+" ") {
			t.Errorf("%s: %v", flag, err)
		}
	}
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}
