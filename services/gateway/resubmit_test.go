package gateway

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// resumable answers with n tokens in all; a resumption gets those that are
// missing. Whenever cut says so after a token, all streams break.
func resumable(f *fakeCoordinator, n int, cut func(seq uint64) bool) func(*fakeGeneration) {
	return func(g *fakeGeneration) {
		g.accept()
		first := uint64(len(g.GetResumption().GetCommittedIds()) + 1)
		for seq := first; seq <= uint64(n); seq++ {
			if !g.await(seq) {
				return
			}
			g.send(g.number, tokenEvent(seq, fmt.Sprint(seq, " ")))
			if cut(seq) {
				f.breakStreams()
				return
			}
		}
		g.send(g.number, completeEvent("stop", n, ""))
	}
}

func counted(n int) (text string) {
	for i := range n {
		text += fmt.Sprint(i+1, " ")
	}
	return text
}

// TestAnswersOutliveACoordinator: on every kind of stream a client gets each
// token once, in order, and one end, however often the coordinator goes away.
func TestAnswersOutliveACoordinator(t *testing.T) {
	const tokens = 200
	f := serve(t)
	var cuts atomic.Int32
	f.fake.set(resumable(f.fake, tokens, func(seq uint64) bool {
		return (seq == 1 || seq == 70 || seq == tokens) && cuts.Add(1) <= 6
	}))
	p := f.dial(t, nil)
	p.send(`{"prompt":"count"}`)
	if text, _, last := p.answer(); text != counted(tokens) || last["type"] != "complete" {
		t.Errorf("socket: %q, then %v", text, last)
	}
	_, _, body := f.post(t, chatPath, chatBody(`"stream":true`))
	text := ""
	for _, e := range events(t, body) {
		_, rest, _ := strings.Cut(e, `"content":"`)
		word, _, _ := strings.Cut(rest, `"`)
		text += word
	}
	if text != counted(tokens) || !strings.Contains(body, "[DONE]") || !strings.Contains(body, "\n\n: recovering\n\n") {
		t.Errorf("event stream: %s", body)
	}
	if n := cuts.Load(); n < 6 {
		t.Errorf("%d cuts", n)
	}
}

// TestResubmission: what is submitted again is ids, seed and fingerprint, and
// what the first coordinator had clamped.
func TestResubmission(t *testing.T) {
	f := serve(t)
	f.fake.set(resumable(f.fake, 5, func(seq uint64) bool { return seq == 3 }))
	gen := &pb.Generation{Input: &pb.Generation_Prompt{Prompt: "x"}, Stop: []string{"END"}, Tenant: "t"}
	var got []string
	for e := range f.relay.generate(t.Context(), gen) {
		switch {
		case e.GetProgress() != nil:
			got = append(got, e.GetProgress().GetPhase())
		case e.GetToken() != nil:
			got = append(got, fmt.Sprint(e.GetToken().GetSeq()))
		default:
			got = append(got, fmt.Sprintf("%T", e.GetEvent()))
		}
	}
	want := []string{"*shoalv1.Event_Accepted", "1", "2", "3", "recovering", "4", "5", "*shoalv1.Event_Complete"}
	if !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	first, second := <-f.fake.started, <-f.fake.started
	r := second.GetResumption()
	if first.GetPrompt() != "x" || r.GetId() != fmt.Sprint("s", first.number) || !slices.Equal(r.GetPromptIds(), []int32{1, 2, 3}) ||
		!slices.Equal(r.GetCommittedIds(), []int32{1, 2, 3}) || r.GetFingerprint() != "f00d" {
		t.Errorf("resumption %v", r)
	}
	if !second.GetSeedSet() || second.GetSampling().GetSeed() != 7 || second.GetTenant() != "t" || len(second.GetStop()) != 1 {
		t.Errorf("submitted again: %v", second.Generation)
	}
}

// TestSilentCoordinator: a coordinator that is there and says nothing, as one that is
// frozen or behind a link that is cut, is lost: its answers are submitted again.
func TestSilentCoordinator(t *testing.T) {
	f := serve(t)
	first := true
	f.fake.set(func(g *fakeGeneration) {
		if !first {
			resumable(f.fake, 5, func(uint64) bool { return false })(g)
			return
		}
		first = false
		g.accept()
		g.send(g.number, tokenEvent(1, "1 "))
		<-f.fake.beaten // one that answers none is not missed
		f.fake.muteStreams()
		g.send(g.number, tokenEvent(2, "this is lost"))
	})
	p := f.dial(t, nil)
	p.send(`{"prompt":"count"}`)
	if text, _, last := p.answer(); text != counted(5) || last["type"] != "complete" {
		t.Errorf("%q, then %v", text, last)
	}
}

// A coordinator that comes back is not ready at once, and may give another
// class: the reader waits, and hears of that.
func TestResubmissionWaits(t *testing.T) {
	f := serve(t)
	var tries atomic.Int32
	f.fake.set(func(g *fakeGeneration) {
		switch tries.Add(1) {
		case 1:
			resumable(f.fake, 2, func(uint64) bool { return true })(g)
		case 2:
			g.send(g.number, errorEvent("model_loading", "", true))
		case 3:
			g.send(g.number, &pb.Event{Event: &pb.Event_Stopped{Stopped: &pb.Stopped{Reason: "drain"}}})
		default:
			g.send(g.number,
				&pb.Event{Event: &pb.Event_Accepted{Accepted: &pb.Accepted{Id: "s1", Fingerprint: "other", Notes: []string{"it may differ"}}}},
				progress(&pb.Progress{Phase: "prefill", Done: 1, Total: 2}), tokenEvent(2, "b"), completeEvent("stop", 2, ""))
		}
	})
	fingerprint, notes, text := "", 0, ""
	for e := range f.relay.generate(t.Context(), &pb.Generation{}) {
		if p := e.GetProgress(); p.GetFingerprint() != "" {
			fingerprint, notes = p.GetFingerprint(), len(p.GetNotes())
		}
		text += e.GetToken().GetDelta().GetContent()
		if terminal(e) && e.GetComplete() == nil {
			t.Errorf("it ends with %v", e)
		}
	}
	if fingerprint != "other" || notes != 1 || text != "1 b" {
		t.Errorf("fingerprint %q, %d notes, text %q", fingerprint, notes, text)
	}
}

// Without a coordinator an answer waits, but not for ever.
func TestResubmissionGivesUp(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.Limits.Recovery = time.Nanosecond })
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		g.send(g.number, tokenEvent(1, "one"))
		f.fake.breakStreams()
	})
	_, _, body := f.post(t, chatPath, chatBody(`"stream":true`))
	list := events(t, body)
	if e := parseError(t, list[len(list)-1]); e.Error.Code != "coordinator_lost" || strings.Contains(body, "[DONE]") {
		t.Errorf("stream %s", body)
	}
}

// TestPoisonedResubmission: a request that coordinators die of, each before it
// gave a token, takes two of them more than it answered to, and ends by name.
func TestPoisonedResubmission(t *testing.T) {
	f := serve(t)
	var tries atomic.Int32
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		if tries.Add(1) == 1 {
			g.send(g.number, tokenEvent(1, "one"))
		}
		f.fake.breakStreams()
	})
	var last *pb.Event
	for e := range f.relay.generate(t.Context(), &pb.Generation{}) {
		last = e
	}
	if e := last.GetError(); e.GetCode() != "request_crashes_coordinators" || e.GetRetryable() {
		t.Errorf("it ends with %v", last)
	}
	if n := tries.Load(); n != 3 {
		t.Errorf("%d coordinators had it, want 3", n)
	}
}
