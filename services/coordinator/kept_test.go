package coordinator

import (
	"testing"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// kept is a request whose answer outlives its gateway.
func keptRaw(id, text string, tokens int32) *pb.Generation {
	g := raw(text, tokens)
	g.Tenant, g.Keep = "tenant", &pb.Keep{Id: id, Note: []byte("a note")}
	return g
}

// claim goes on with an answer, from the token after one on.
func (c *client) claim(credit uint64, tenant, id string, after uint64) *answer {
	c.t.Helper()
	c.next++
	c.up(&pb.Upward{Number: c.next, Message: &pb.Upward_Claim{Claim: &pb.Claim{Tenant: tenant, Id: id, After: after}}},
		&pb.Upward{Number: c.next, Message: &pb.Upward_Credit{Credit: &pb.Credit{Seq: credit}}})
	return &answer{client: c, number: c.next, seq: after}
}

func claimed(e *pb.Event) bool { return e.GetClaimed() != nil }

// TestAnotherGatewayGoesOn: an answer whose gateway is gone is computed on, and another
// gateway gets it from any token on, at the pace of its credit, however far it has come.
func TestAnotherGatewayGoesOn(t *testing.T) {
	const text = "0123456789abcdefghij"
	r := newRig(t, nil, "a", "b")
	r.report("ready", ready)
	first := r.connect("gw-first")
	a := first.ask(5, keptRaw("the-answer", text+"$", 100))
	a.until(tokenNumber(5))
	first.cancel()
	b := r.relay.claim(8, "tenant", "the-answer", 3)
	e := b.until(claimed).GetClaimed()
	if string(e.GetRequest().GetKeep().GetNote()) != "a note" || len(e.GetCommittedIds()) != 3 {
		t.Errorf("claimed %v", e)
	}
	b.until(tokenNumber(8))
	b.credit(100)
	b.finish()
	if want := text[3:]; b.text != want || b.terminal.GetComplete() == nil {
		t.Errorf("the rest is %q, want %q: %v", b.text, want, b.terminal)
	}
	again := r.relay.claim(100, "tenant", "the-answer", 0) // it has ended, and is still there
	if again.finish(); again.text != text || again.terminal.GetComplete() == nil {
		t.Errorf("the whole is %q, want %q: %v", again.text, text, again.terminal)
	}
}

// TestClaimTakesOver: what another gateway has goes to the one that claims it.
func TestClaimTakesOver(t *testing.T) {
	r := newRig(t, nil, "a", "b")
	r.report("ready", ready)
	other := r.connect("gw2")
	a := r.relay.ask(2, keptRaw("the-answer", "0123456789$", 100))
	a.until(tokenNumber(2))
	b := other.claim(100, "tenant", "the-answer", 2)
	b.finish()
	if b.text != "23456789" {
		t.Errorf("the rest is %q: %v", b.text, b.terminal)
	}
	if e := a.finish().GetError(); e.GetCode() != codeElsewhere {
		t.Errorf("the first gateway hears %v", a.terminal)
	}
}

// TestClaimsAreRefusedByName: of what is not there, is another tenant's, was not kept, was
// stopped, or has not come so far.
func TestClaimsAreRefusedByName(t *testing.T) {
	r := newRig(t, nil, "a", "b")
	r.report("ready", ready)
	other := r.connect("gw2")
	unkept := raw("short$", 50)
	unkept.Tenant = "tenant"
	r.relay.ask(100, unkept).finish()
	r.relay.ask(100, keptRaw("whole", "0123$", 50)).finish()
	stopped := r.relay.ask(2, keptRaw("stopped", "endless", 200))
	stopped.until(tokenNumber(2))
	stopped.stop()
	stopped.finish()
	for _, c := range []struct {
		tenant, id string
		after      uint64
		code       string
	}{
		{"tenant", "nothing", 0, codeUnknownGeneration},
		{"another", "whole", 0, codeUnknownGeneration},
		{"tenant", "stopped", 0, codeUnknownGeneration},
		{"tenant", "whole", 5, codeInvalid},
	} {
		b := other.claim(100, c.tenant, c.id, c.after)
		if e := b.finish().GetError(); e.GetCode() != c.code {
			t.Errorf("%s of %s after %d: %v, want %s", c.id, c.tenant, c.after, b.terminal, c.code)
		}
	}
}

// TestSubmittedAgainKeepsWhatWasSaid: a gateway whose stream broke submits the answer
// again; another one may still claim it from the beginning.
func TestSubmittedAgainKeepsWhatWasSaid(t *testing.T) {
	const text = "0123456789"
	r := newRig(t, nil, "a", "b")
	r.report("ready", ready)
	first := r.connect("gw-first")
	a := first.ask(4, keptRaw("the-answer", text+"$", 100))
	a.until(tokenNumber(4))
	first.cancel()
	again := keptRaw("the-answer", text+"$", 100)
	again.Input = &pb.Generation_Resumption{Resumption: &pb.Resumption{
		Id: a.accepted.Id, PromptIds: a.accepted.PromptIds, CommittedIds: a.ids, Fingerprint: a.accepted.Fingerprint,
	}}
	again.SeedSet, again.Sampling.Seed = true, a.accepted.Seed
	second := r.connect("gw-second")
	b := second.ask(6, again)
	b.until(tokenNumber(6))
	second.cancel()
	c := r.relay.claim(100, "tenant", "the-answer", 1)
	if n := len(c.until(claimed).GetClaimed().GetCommittedIds()); n != 1 {
		t.Errorf("%d ids before the claim", n)
	}
	if c.finish(); c.text != text[1:] || c.terminal.GetComplete() == nil {
		t.Errorf("the rest is %q, want %q: %v", c.text, text[1:], c.terminal)
	}
}

// TestNobodyClaims: an answer that nobody claims is stopped after a minute, and what has
// ended is forgotten two minutes later.
func TestNobodyClaims(t *testing.T) {
	now := time.Now()
	ended := &kept{key: keptKey{"t", "a"}, since: now}
	o := &owner{kept: map[keptKey]*kept{ended.key: ended}}
	o.expireKept(now.Add(keptEnded - 1))
	if len(o.kept) != 1 {
		t.Error("forgotten too early")
	}
	o.expireKept(now.Add(keptEnded))
	if len(o.kept) != 0 {
		t.Error("kept for ever")
	}
}
