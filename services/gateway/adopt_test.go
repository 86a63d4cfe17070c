package gateway

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/coder/websocket"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// goOn is a coordinator's side of an answer of ten words that another gateway had.
func goOn(g *fakeGeneration) {
	request := &pb.Generation{
		Tenant: g.claim.GetTenant(), Input: &pb.Generation_Prompt{Prompt: "ten words"}, Sampling: &pb.Sampling{},
		Keep: &pb.Keep{Id: g.claim.GetId(), Note: showing{ids: true}.note()},
	}
	ids := make([]int32, g.claim.GetAfter())
	g.send(g.number, &pb.Event{Event: &pb.Event_Claimed{Claimed: &pb.Claimed{Request: request, CommittedIds: ids}}})
	g.accept()
	for seq := g.claim.GetAfter() + 1; seq <= 10; seq++ {
		if !g.await(seq) {
			return
		}
		g.send(g.number, tokenEvent(seq, fmt.Sprint(seq, " ")))
	}
	g.send(g.number, completeEvent("stop", 10, ""))
}

// TestResumeAtAnotherGateway: an answer that another gateway had goes on here, from the
// token that the client has, shown as it asked for there.
func TestResumeAtAnotherGateway(t *testing.T) {
	f := serve(t)
	f.fake.keeps = true
	f.fake.set(goOn)
	id := resumableID(1)
	p := f.rich(t)
	p.send(fmt.Sprintf(`{"v":1,"type":"resume","id":%q,"after_seq":4}`, id))
	s := transcript{seq: 4}
	p.follow(&s, s.ended)
	if s.text != "5 6 7 8 9 10 " || s.terminal["type"] != typeComplete {
		t.Errorf("went on with %q, %v", s.text, s.terminal)
	}
	if g := f.next(t); g.claim.GetId() != id || g.claim.GetAfter() != 4 {
		t.Errorf("claimed %v", g.claim)
	}
	next, cut := f.events(t, fmt.Sprintf(`{"v":1,"type":"resume","id":%q,"after_seq":9}`, resumableID(2)))
	defer cut()
	var last frame
	for {
		_, got, ok := next()
		if !ok {
			break
		}
		if got["type"] == "token" && (got["text"] != "10 " || got["tokenId"] != float64(10)) {
			t.Errorf("over server-sent events: %v", got)
		}
		last = got
	}
	if last["type"] != typeComplete {
		t.Errorf("server-sent events end with %v", last)
	}
}

// TestAdoptedOutlivesCoordinator: what was claimed is submitted again like any answer.
func TestAdoptedOutlivesCoordinator(t *testing.T) {
	f := serve(t)
	f.fake.keeps = true
	broken := make(chan struct{})
	f.fake.set(func(g *fakeGeneration) {
		if g.claim == nil {
			r := g.GetResumption()
			if len(r.GetCommittedIds()) != 6 {
				t.Errorf("submitted again with %d ids", len(r.GetCommittedIds()))
			}
			g.accept()
			for seq := uint64(7); seq <= 10; seq++ {
				g.send(g.number, tokenEvent(seq, fmt.Sprint(seq, " ")))
			}
			g.send(g.number, completeEvent("stop", 10, ""))
			return
		}
		request := &pb.Generation{Tenant: g.claim.GetTenant(), Input: &pb.Generation_Prompt{Prompt: "x"}}
		g.send(g.number, &pb.Event{Event: &pb.Event_Claimed{Claimed: &pb.Claimed{Request: request, CommittedIds: make([]int32, 4)}}})
		g.accept()
		g.send(g.number, tokenEvent(5, "5 "), tokenEvent(6, "6 "))
		<-broken
	})
	p := f.rich(t)
	p.send(fmt.Sprintf(`{"v":1,"type":"resume","id":%q,"after_seq":4}`, resumableID(1)))
	s := transcript{seq: 4}
	p.follow(&s, func() bool { return s.seq == 6 })
	f.fake.breakStreams()
	close(broken)
	p.follow(&s, s.ended)
	if s.text != "5 6 7 8 9 10 " || s.terminal["type"] != typeComplete {
		t.Errorf("went on with %q, %v", s.text, s.terminal)
	}
}

// TestDrainHandsAnswersOver: a gateway that shuts down leaves resumable answers to
// others, and lets their clients go and look for them, without a terminal.
func TestDrainHandsAnswersOver(t *testing.T) {
	f := serve(t)
	f.fake.set((*fakeGeneration).endless)
	p := f.rich(t)
	p.generate(resumableID(1), `,"resumable":true`)
	var s transcript
	p.follow(&s, func() bool { return s.seq > 3 })
	g := f.next(t)
	if string(g.GetKeep().GetId()) != resumableID(1) {
		t.Errorf("to be kept as %v", g.GetKeep())
	}
	f.stop()
	g.wantStop(t, "drain")
	for {
		_, data, err := p.conn.Read(t.Context())
		if err != nil {
			if websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("closed with %v", err)
			}
			break
		}
		var got frame
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if kind := got["type"]; kind == typeStopped || kind == typeComplete || kind == "error" {
			t.Errorf("a terminal before the answer's end: %v", got)
		}
	}
}
