package coordinator

import (
	"slices"
	"testing"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// A report holds the plan, what was counted, and what happened.
func TestReport(t *testing.T) {
	r := newRig(t, nil, "a", "b")
	before := r.report("ready", ready)
	if p := before.GetPipeline(); len(p.GetStages()) != 2 || p.GetContext() == 0 || p.GetStages()[0].GetFirst() != 0 || !p.GetStages()[1].GetHead() {
		t.Errorf("the plan is %v", p)
	}
	a := r.relay.ask(100, raw("abc$", 50))
	a.finish()
	if e := r.relay.ask(1, &pb.Generation{Model: "another"}).finish(); e.GetError() == nil {
		t.Errorf("an unknown model gave %v", e)
	}
	after := r.report("both are counted", func(c *pb.ClusterResponse) bool { return c.GetTotals().GetRequests() == 2 })
	if n := after.GetTotals(); n.GetFailed() != 1 || n.GetGeneratedTokens() != uint64(len(a.ids)) || n.GetPromptTokens() == 0 {
		t.Errorf("counted %v, want %d tokens and one failure", n, len(a.ids))
	}
	var kinds []string
	for i, e := range after.GetEvents() {
		kinds = append(kinds, e.GetKind())
		if e.GetNumber() != uint64(i+1) || e.GetTimeMs() == 0 {
			t.Errorf("event %d is %v", i, e)
		}
	}
	for _, want := range []string{noteNodeJoined, notePlan, noteReady, noteGatewayJoined} {
		if !slices.Contains(kinds, want) {
			t.Errorf("no event %s in %q", want, kinds)
		}
	}
	r.connect("gw2").cancel()
	r.report("the gateway left", func(c *pb.ClusterResponse) bool {
		return slices.ContainsFunc(c.GetEvents(), func(e *pb.ClusterEvent) bool { return e.GetKind() == noteGatewayLeft && e.GetNode() == "gw2" })
	})
}

func TestJournalIsBounded(t *testing.T) {
	var j journal
	for range 3 * maxNotes {
		j.note(time.Time{}, notePlan, "", "")
	}
	if len(j.notes) != maxNotes || j.notes[maxNotes-1].GetNumber() != 3*maxNotes || j.notes[0].GetNumber() != 2*maxNotes+1 {
		t.Errorf("%d notes from %d", len(j.notes), j.notes[0].GetNumber())
	}
}

// An answer that its length ends says so with its last token.
func TestLastToken(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	a := r.relay.ask(100, raw("0123456789", 5))
	var flags []bool
	for a.terminal == nil {
		if tok := a.event().GetToken(); tok != nil {
			flags = append(flags, tok.GetLast())
		}
	}
	if !slices.Equal(flags, []bool{false, false, false, false, true}) {
		t.Errorf("last is %v", flags)
	}
}
