package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// rich dials with the rich protocol.
func (f *front) rich(t *testing.T, headers ...string) *pageSocket {
	t.Helper()
	opts := &websocket.DialOptions{Subprotocols: append([]string{richProtocol}, headers...)}
	p := f.dial(t, opts)
	if got := p.conn.Subprotocol(); got != richProtocol {
		t.Fatalf("subprotocol %q", got)
	}
	return p
}

// resumableID makes an id that is long enough.
func resumableID(n int) string { return fmt.Sprintf("generation-%08d", n) }

func (p *pageSocket) generate(id, more string) {
	p.t.Helper()
	p.send(fmt.Sprintf(`{"v":1,"type":"generate","id":%q,"prompt":"go on"%s}`, id, more))
}

// transcript is what a client has seen of one generation.
type transcript struct {
	seq      uint64
	text     string
	frames   int // of tokens
	accepted int
	last     bool
	terminal frame
}

// add takes a frame in, and complains about a gap or a repeat.
func (s *transcript) add(f frame) error {
	switch f["type"] {
	case typeAccepted:
		s.accepted++
	case typeToken:
		n := f["tokens"].(float64)
		if seq := uint64(f["seq"].(float64)); seq != s.seq+uint64(n) || n < 1 {
			return fmt.Errorf("frame of %v tokens up to %d after token %d", n, seq, s.seq)
		}
		s.seq += uint64(n)
		s.text += f["text"].(string)
		s.last = f["last"] == true
		s.frames++
		if pieces, ok := f["pieces"].([]any); ok != (n > 1) || ok && len(pieces) != int(n) {
			return fmt.Errorf("frame of %v tokens has pieces %v", n, pieces)
		}
	case typeComplete, typeStopped, typeError:
		if s.terminal != nil {
			return fmt.Errorf("a second terminal: %v", f)
		}
		s.terminal = f
	}
	return nil
}

// follow reads frames of one generation until enough says so.
func (p *pageSocket) follow(s *transcript, enough func() bool) {
	p.t.Helper()
	for !enough() {
		if err := s.add(p.read()); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (s *transcript) ended() bool { return s.terminal != nil }

func TestRichAnswer(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		g.send(g.number, &pb.Event{Event: &pb.Event_Progress{Progress: &pb.Progress{Phase: "queued", Done: 1, Total: 3}}})
		g.accept()
		g.send(g.number, tokenEvent(1, "Hel"))
		last := tokenEvent(2, "lo")
		last.GetToken().Last = true
		g.send(g.number, last, completeEvent("stop", 2, ""))
	})
	p := f.rich(t)
	p.generate("a", `,"tokenIds":true`)
	var got []frame
	for len(got) == 0 || got[len(got)-1]["type"] != typeComplete {
		got = append(got, p.read())
	}
	var kinds []string
	for _, f := range got {
		kinds = append(kinds, f["type"].(string))
		if f["v"] != 1. || f["id"] != "a" {
			t.Errorf("frame %v", f)
		}
	}
	if kinds[0] == typeProgress { // unless it was overtaken
		got, kinds = got[1:], kinds[1:]
	}
	if order := strings.Join(kinds, " "); !strings.HasPrefix(order, "accepted token ") || !strings.HasSuffix(order, " usage complete") {
		t.Fatalf("frames %s", order)
	}
	var s transcript
	for _, f := range got {
		if err := s.add(f); err != nil {
			t.Error(err)
		}
	}
	if s.text != "Hello" || !s.last || s.seq != 2 {
		t.Errorf("the answer is %+v", s)
	}
	requestID := got[0]["requestId"]
	if session, _ := got[0]["session"].(string); session == "" {
		t.Error("accepted names no session")
	}
	delete(got[0], "requestId")
	delete(got[0], "session")
	want := frame{
		"v": 1., "type": "accepted", "id": "a", "model": "tiny", "precision": "int8", "fingerprint": "f00d",
		"seed": 7., "maxTokens": 0., "promptTokens": 3., "kv": map[string]any{"maxSeqLen": 3.}, "resumable": false,
		"route": []any{"ada [0..4)", "bob [4..8)"}, "notes": []any{},
	}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("accepted (-want +got):\n%s", diff)
	}
	end := got[len(got)-1]
	want = frame{
		"v": 1., "type": "complete", "id": "a", "finishReason": "stop", "requestId": requestID,
		"timings": map[string]any{"queueMs": 1., "promptMs": 10., "predictedMs": 100., "tokensPerSecond": 10.},
	}
	if diff := cmp.Diff(want, end); diff != "" {
		t.Errorf("complete (-want +got):\n%s", diff)
	}
	want = frame{"v": 1., "type": "usage", "id": "a", "promptTokens": 3., "completionTokens": 2., "cachedTokens": 0.}
	if diff := cmp.Diff(want, got[len(got)-2]); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

func TestRichOptionsReachTheCoordinator(t *testing.T) {
	f := serve(t)
	p := f.rich(t)
	p.send(`{"v":1,"type":"generate","id":"a","messages":[{"role":"user","content":"d"}],"system":"be kind","modelPath":"models/llama-7b",
		"config":{"quantization":8,"kvCacheConfig":{"bits":16,"maxSeqLen":512}},"topP":0.9,"topK":40,"minP":0.05,"repetitionPenalty":1.1,
		"presencePenalty":0.5,"frequencyPenalty":-0.5,"penaltyWindow":64,"stop":["x","y"],"seed":9,"maxTokens":7,"temperature":0,
		"logprobs":true,"topLogprobs":2,"logitBias":{"5":-1},"ignoreEos":true,"deadlineMs":99999999999999,"truncate":true}`)
	var s transcript
	p.follow(&s, s.ended)
	got := f.next(t).Generation
	got.Traceparent = ""
	wantSame(t, &pb.Generation{
		Model: "models/llama-7b", Precision: "int8", Tenant: "local", Stop: []string{"x", "y"}, SeedSet: true, MaxTokensClamp: true, SeparateReasoning: true,
		DeadlineMs: 99999999999999, Truncate: true, Kv: &pb.KvOptions{Bits: 16, MaxSeqLen: 512},
		Input: &pb.Generation_Chat{Chat: &pb.Chat{Messages: []*pb.Message{
			{Role: "system", Content: "be kind"}, {Role: "user", Content: "d"},
		}}},
		Sampling: &pb.Sampling{
			MaxTokens: 7, TopP: 0.9, TopK: 40, MinP: 0.05, RepetitionPenalty: 1.1, PresencePenalty: 0.5, FrequencyPenalty: -0.5,
			PenaltyWindow: 64, Seed: 9, Logprobs: true, TopLogprobs: 2, IgnoreEos: true, Bias: []*pb.LogitBias{{Id: 5, Value: -1}},
		},
	}, got)
}

func TestRichLogprobs(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		e := tokenEvent(1, "a")
		e.GetToken().Logprob = &pb.LogProb{Logprob: -0.5, Top: []*pb.TopLogProb{{Id: 4, Logprob: -0.25, Text: "b"}}}
		g.send(g.number, e)
		g.send(g.number, completeEvent("stop", 1, "held"))
	})
	p := f.rich(t)
	p.generate("a", `,"logprobs":true,"topLogprobs":1,"tokenIds":true`)
	p.read()
	token := p.read()
	want := frame{
		"v": 1., "type": "token", "id": "a", "seq": 1., "text": "a", "tokens": 1., "tokenId": 1.,
		"logprob": map[string]any{"logprob": -0.5, "top": []any{map[string]any{"tokenId": 4., "text": "b", "logprob": -0.25}}},
	}
	if diff := cmp.Diff(want, token); diff != "" {
		t.Errorf("token (-want +got):\n%s", diff)
	}
	p.read()
	if end := p.read(); end["text"] != "held" {
		t.Errorf("complete is %v", end)
	}
}

// What shapes an answer is spelled as OpenAI spells it; calls arrive in tokens, or
// at the end when they were held back.
func TestRichToolsAndFormat(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		g.send(g.number, tokenEvent(1, "I ask "), &pb.Event{Event: &pb.Event_Token{Token: &pb.Token{
			Seq: 2, Delta: &pb.Delta{Delta: &pb.Delta_ToolCall{ToolCall: &pb.ToolCall{Id: "c1", Name: "weather", Arguments: `{"city":`}}},
		}}})
		g.send(g.number, &pb.Event{Event: &pb.Event_Complete{Complete: &pb.Complete{
			FinishReason: "tool_calls", ToolCalls: []*pb.ToolCall{{Index: 1, Id: "c2", Name: "time", Arguments: "{}"}},
		}}})
	})
	p := f.rich(t)
	p.generate("a", `,"response_format":{"type":"json_object"},"tools":[{"type":"function","function":{"name":"weather"}}],
		"tool_choice":"auto","parallel_tool_calls":false`)
	g := f.next(t)
	if g.GetResponseFormat().GetType() != "json_object" || len(g.GetTools()) != 1 || g.GetToolChoice().GetMode() != "auto" || !g.GetSingleToolCall() {
		t.Errorf("the coordinator saw %v", g.Generation)
	}
	var s transcript
	var call any
	for !s.ended() {
		got := p.read()
		if err := s.add(got); err != nil {
			t.Fatal(err)
		}
		if got["toolCall"] != nil {
			call = got["toolCall"]
		}
	}
	if diff := cmp.Diff(map[string]any{"index": 0., "id": "c1", "name": "weather", "arguments": `{"city":`}, call); diff != "" || s.text != "I ask " {
		t.Errorf("text %q, call (-want +got):\n%s", s.text, diff)
	}
	want := []any{map[string]any{"index": 1., "id": "c2", "name": "time", "arguments": "{}"}}
	if diff := cmp.Diff(want, s.terminal["toolCalls"]); diff != "" || s.terminal["finishReason"] != "tool_calls" {
		t.Errorf("%v (-want +got):\n%s", s.terminal, diff)
	}
}

// Many answers share a socket: each is whole and in order.
func TestRichManyOnOneSocket(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) { g.story(int(g.GetSampling().GetMaxTokens())) })
	p := f.rich(t)
	seen := map[string]*transcript{}
	for i := range socketGenerations {
		id := fmt.Sprint("g", i)
		seen[id] = &transcript{}
		p.generate(id, fmt.Sprintf(`,"maxTokens":%d`, i+2))
	}
	p.generate("one more", "")
	for open := len(seen); open > 0; {
		got := p.read()
		if got["refused"] != nil {
			if got["code"] != "rate_limit_exceeded" && got["param"] != "id" {
				t.Errorf("refused with %v", got)
			}
			continue
		}
		s := seen[got["id"].(string)]
		if err := s.add(got); err != nil {
			t.Fatal(err)
		}
		if s.ended() {
			open--
		}
	}
	for id, s := range seen {
		n := 0
		fmt.Sscanf(id, "g%d", &n)
		if want := strings.Join(strings.SplitAfter(story, " ")[:n+2], ""); s.text != want || s.terminal["type"] != typeComplete {
			t.Errorf("%s: %q then %v, want %q", id, s.text, s.terminal, want)
		}
	}
}

func TestRichStopAndPing(t *testing.T) {
	f := serve(t)
	f.fake.set((*fakeGeneration).endless)
	p := f.rich(t)
	p.generate("a", "")
	var s transcript
	p.follow(&s, func() bool { return s.seq > 3 })
	p.send(`{"v":1,"type":"ping","t":12.5}`)
	p.send(`{"v":1,"type":"stop","id":"a"}`)
	pong := false
	for !s.ended() || !pong {
		got := p.read()
		if got["type"] == typePong {
			if pong = true; got["t"] != 12.5 {
				t.Errorf("pong %v", got)
			}
			continue
		}
		if err := s.add(got); err != nil {
			t.Fatal(err)
		}
	}
	if s.terminal["type"] != typeStopped || s.terminal["reason"] != "client" {
		t.Errorf("ended with %v", s.terminal)
	}
	f.next(t).wantStop(t, "client")
	p.generate("a", "") // the id is free again
	s = transcript{}
	p.follow(&s, func() bool { return s.seq > 3 })
	p.conn.Close(websocket.StatusNormalClosure, "")
	f.next(t).wantStop(t, "client")
}

// W08: whatever a client sends, it is told what is wrong, and nothing else ends.
func TestRichRefusals(t *testing.T) {
	f := serve(t)
	f.fake.set((*fakeGeneration).silent)
	p := f.rich(t)
	p.generate("running-00000000", "")
	p.read()
	id := `"id":"running-00000000"`
	for _, c := range []struct{ send, code, param, refused string }{
		{`not json`, "invalid_request_error", "", "frame"},
		{`[]`, "invalid_request_error", "", "frame"},
		{`{}`, "invalid_request_error", "v", "frame"},
		{`{"v":2,"type":"ping"}`, "invalid_request_error", "v", "ping"},
		{`{"v":1,"type":"shout"}`, "invalid_request_error", "id", "frame"},
		{`{"v":1,"type":"shout","id":"x"}`, "invalid_request_error", "type", "frame"},
		{`{"v":1,"type":"control","id":"x","skip_reasoning":true}`, "unsupported_option", "type", "control"},
		{`{"v":1,"type":"generate","prompt":"x"}`, "invalid_request_error", "id", "generate"},
		{`{"v":1,"type":"generate","id":"a b","prompt":"x"}`, "invalid_request_error", "id", "generate"},
		{`{"v":1,"type":"generate","id":"` + strings.Repeat("x", 129) + `","prompt":"x"}`, "invalid_request_error", "id", "generate"},
		{`{"v":1,"type":"generate",` + id + `,"prompt":"x"}`, "busy", "id", "generate"},
		{`{"v":1,"type":"generate","id":"short","prompt":"x","resumable":true}`, "invalid_request_error", "id", "generate"},
		{`{"v":1,"type":"generate","id":"x"}`, "invalid_request_error", "prompt", "generate"},
		{`{"v":1,"type":"generate","id":"x","prompt":"x","shine":1}`, "unsupported_option", "shine", "generate"},
		{`{"v":1,"type":"generate","id":"x","prompt":"x","config":{"memoryOptimizedMode":true}}`, "unsupported_option", "config.memoryOptimizedMode", "generate"},
		{`{"v":1,"type":"generate","id":"x","prompt":"x","topLogprobs":3}`, "invalid_request_error", "topLogprobs", "generate"},
		{`{"v":1,"type":"generate","id":"x","prompt":"x","logitBias":{"cat":1}}`, "invalid_request_error", "logitBias.cat", "generate"},
		{`{"v":1,"type":"generate","id":"x","prompt":"x","model":"` + strings.Repeat("x", 10_000) + `"}`, "model_not_found", "model", "generate"},
		{`{"v":1,"type":"stop","id":"unknown"}`, "unknown_generation", "id", "stop"},
		{`{"v":1,"type":"stop",` + id + `,"reason":"x"}`, "unsupported_option", "reason", "stop"},
		{`{"v":1,"type":"resume","id":"unknown","after_seq":0}`, "unknown_generation", "id", "resume"},
		{`{"v":1,"type":"resume",` + id + `,"after_seq":0}`, "unknown_generation", "id", "resume"}, // not resumable
		{`{"v":1,"type":"resume",` + id + `}`, "invalid_request_error", "after_seq", "resume"},
		{`{"v":1,"type":"resume",` + id + `,"after_seq":-1}`, "invalid_request_error", "after_seq", "resume"},
		{`{"v":1,"type":"ping","t":{}}`, "invalid_request_error", "t", "ping"},
	} {
		p.send(c.send)
		got := p.read()
		param, _ := got["param"].(string)
		if got["type"] != typeError || got["code"] != c.code || param != c.param || got["refused"] != c.refused || got["message"] == "" {
			t.Errorf("%.80s: got %v, want %s on %q", c.send, got, c.code, c.param)
		}
	}
	p.send(`{"v":1,"type":"stop",` + id + `}`)
	var s transcript
	p.follow(&s, s.ended)
	if s.terminal["type"] != typeStopped {
		t.Errorf("the generation that ran ended with %v", s.terminal)
	}
}

func TestRichCoordinatorError(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) { g.send(g.number, errorEvent("model_not_found", "model", false)) })
	p := f.rich(t)
	p.generate("a", "")
	if got := p.read(); got["type"] != typeError || got["code"] != "model_not_found" || got["refused"] != nil || got["id"] != "a" || got["requestId"] == "" {
		t.Errorf("got %v", got)
	}
	// What the coordinator does not serve is named as the client wrote it.
	f.fake.set(func(g *fakeGeneration) { g.send(g.number, errorEvent("unsupported_option", "kv.group_size", false)) })
	p.generate("a", `,"config":{"kvCacheConfig":{"groupSize":64}}`)
	if got := p.read(); got["code"] != "unsupported_option" || got["param"] != "config.kvCacheConfig.groupSize" {
		t.Errorf("got %v", got)
	}
}

// A client that reads late gets every token in order, in fewer frames; until
// then the generation is paused, not piled up.
func TestRichSlowReaderIsCoalesced(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		words := make([]string, 5000)
		for i := range words {
			words[i] = fmt.Sprintf("w%d ", i)
		}
		g.answer(words...)
	})
	p := f.rich(t)
	p.generate("a", "")
	g := f.next(t)
	paused := g.untilPaused(t)
	if most := uint64(5 * maxUnsent); paused > most {
		t.Errorf("credit for %d tokens was given to a client that reads nothing; want at most %d", paused, most)
	}
	var s transcript
	p.follow(&s, s.ended)
	if s.seq != 5000 || s.terminal["type"] != typeComplete || s.frames > 4000 {
		t.Errorf("%d tokens in %d frames, then %v", s.seq, s.frames, s.terminal)
	}
	if !strings.HasPrefix(s.text, "w0 w1 w2 ") || !strings.HasSuffix(s.text, " w4998 w4999 ") {
		t.Errorf("the text is %.20q…", s.text)
	}
}

// untilPaused waits until the credit does not grow any more.
func (g *fakeGeneration) untilPaused(t *testing.T) uint64 {
	t.Helper()
	var last uint64
	for same := 0; same < 20; time.Sleep(5 * time.Millisecond) {
		g.mu.Lock()
		now := g.credit
		g.mu.Unlock()
		if same++; now != last || now < maxUnsent {
			last, same = now, 0
		}
	}
	return last
}

// W10: a client that never reads is told so, once it does.
func TestRichSlowConsumerIsClosed(t *testing.T) {
	t.Parallel() // the closing handshake takes its time
	f := serve(t, func(c *Config, _ *Deps) { c.Limits.WriteTimeout = 2 * time.Second })
	f.fake.set((*fakeGeneration).endless)
	p := f.rich(t)
	p.generate("a", "")
	f.next(t).wantStop(t, "client")
	p.wantClose(websocket.StatusTryAgainLater)
}

// Resume goes on without a gap and without a repeat, as often as it takes.
func TestRichResume(t *testing.T) {
	t.Parallel()
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) { g.story(60) })
	id := resumableID(1)
	p := f.rich(t)
	p.generate(id, `,"resumable":true`)
	var s transcript
	p.follow(&s, func() bool { return s.seq >= 5 })
	p.conn.CloseNow()
	for stage := uint64(1); !s.ended(); stage++ {
		p = f.rich(t)
		p.send(fmt.Sprintf(`{"v":1,"type":"resume","id":%q,"after_seq":%d}`, id, s.seq))
		p.follow(&s, func() bool { return s.ended() || s.seq >= 20*stage })
		if !s.ended() && stage%2 == 1 {
			p.conn.CloseNow() // else the new socket takes over from this one
		}
	}
	words := strings.SplitAfter(story, " ")
	if want := strings.Join(words, "") + strings.Join(words[:60-len(words)%60], ""); s.seq != 60 || !strings.HasPrefix(want, s.text[:40]) || s.terminal["type"] != typeComplete {
		t.Errorf("%d tokens, %q, then %v", s.seq, s.text, s.terminal)
	}
	if s.accepted < 3 {
		t.Errorf("accepted came %d times", s.accepted)
	}
}

// A tenant's generation does not exist for another, and not beyond its end.
func TestRichResumeIsRefused(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.APIKeys = []string{"alice", "bob"} })
	f.fake.set((*fakeGeneration).endless)
	id := resumableID(2)
	alice, bob := f.rich(t, "bearer.alice"), f.rich(t, "bearer.bob")
	alice.generate(id, `,"resumable":true`)
	var s transcript
	alice.follow(&s, func() bool { return s.seq >= 3 })
	ask := func(p *pageSocket, send string) frame {
		t.Helper()
		p.send(send)
		for {
			if got := p.read(); got["refused"] != nil {
				delete(got, "id")
				return got
			}
		}
	}
	resume := `{"v":1,"type":"resume","id":%q,"after_seq":%d}`
	foreign, unknown := ask(bob, fmt.Sprintf(resume, id, 0)), ask(bob, fmt.Sprintf(resume, resumableID(3), 0))
	if diff := cmp.Diff(unknown, foreign); diff != "" || foreign["code"] != "unknown_generation" {
		t.Errorf("foreign differs from unknown (-unknown +foreign):\n%s", diff)
	}
	if got := ask(bob, fmt.Sprintf(`{"v":1,"type":"stop","id":%q}`, id)); got["code"] != "unknown_generation" {
		t.Errorf("a foreign stop got %v", got)
	}
	if got := ask(alice, fmt.Sprintf(resume, id, 1<<40)); got["param"] != "after_seq" || got["code"] != "invalid_request_error" {
		t.Errorf("a resume from the future got %v", got)
	}
	if got := ask(alice, fmt.Sprintf(`{"v":1,"type":"generate","id":%q,"prompt":"x","resumable":true}`, id)); got["code"] != "busy" {
		t.Errorf("the same id got %v", got)
	}
	// Bob may call his own so: ids of tenants do not meet.
	bob.generate(id, `,"resumable":true`)
	var other transcript
	bob.follow(&other, func() bool { return other.seq >= 3 })

	f.next(t)
	alice.conn.Close(websocket.StatusNormalClosure, "") // closed is a stop, also of a resumable answer
	for deadline := time.Now().Add(patience); f.shelf.size() != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the closed socket's answer is still kept")
		}
	}
}

// A page that is closed says so and is gone at once, whatever is on its way to
// it: that is a stop, not a loss.
func TestRichHastyCloseIsAStop(t *testing.T) {
	f := serve(t)
	f.fake.set((*fakeGeneration).endless)
	for i := range 30 {
		s := f.raw(t, richProtocol)
		s.conn.Write(wireFrame(fin|opText, fmt.Sprintf(`{"v":1,"type":"generate","id":%q,"prompt":"x","resumable":true}`, resumableID(i))))
		s.next()
		s.conn.Write(closeFrame(1001, ""))
		s.conn.(*net.TCPConn).SetLinger(0) // Close resets the connection
		s.conn.Close()
		f.next(t).wantStop(t, "client")
	}
	for deadline := time.Now().Add(patience); f.shelf.size() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d answers are still kept", f.shelf.size())
		}
	}
}

// Sockets that are cut all at once lose nothing.
func TestRichManyCutAtOnce(t *testing.T) {
	t.Parallel()
	n := 1000
	if testing.Short() {
		n = 100
	}
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) { g.story(40) })
	var cut, work sync.WaitGroup
	cut.Add(n)
	for i := range n {
		work.Go(func() {
			var s transcript
			id := resumableID(i)
			generate := fmt.Sprintf(`{"v":1,"type":"generate","id":%q,"prompt":"x","resumable":true}`, id)
			err := f.session(t, generate, &s, func() bool { return s.seq >= uint64(1+i%7) }, &cut)
			if err == nil {
				resume := fmt.Sprintf(`{"v":1,"type":"resume","id":%q,"after_seq":%d}`, id, s.seq)
				err = f.session(t, resume, &s, s.ended, nil)
			}
			if err != nil || s.seq != 40 || s.terminal["type"] != typeComplete {
				t.Errorf("%s: %d tokens, then %v: %v", id, s.seq, s.terminal, err)
			}
		})
	}
	work.Wait()
}

// session opens a socket, sends a frame, reads until it is enough, and then cuts
// the socket, together with others.
func (f *front) session(t *testing.T, send string, s *transcript, enough func() bool, cut *sync.WaitGroup) error {
	arrived := sync.OnceFunc(func() {
		if cut != nil {
			cut.Done()
			cut.Wait()
		}
	})
	defer arrived()
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, f.url+"/streaming", &websocket.DialOptions{Subprotocols: []string{richProtocol}})
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	if err := conn.Write(ctx, websocket.MessageText, []byte(send)); err != nil {
		return err
	}
	for !enough() {
		_, data, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		var got frame
		if err := json.Unmarshal(data, &got); err != nil {
			return err
		}
		if err := s.add(got); err != nil {
			return err
		}
	}
	arrived()
	return nil
}

func TestRichDrain(t *testing.T) {
	f := serve(t)
	f.fake.set((*fakeGeneration).endless)
	lost := f.rich(t)
	lost.generate(resumableID(1), `,"resumable":true`)
	lost.read()
	lost.conn.CloseNow()
	running := f.rich(t)
	running.generate("a", "")
	running.read()
	f.stop()
	var s transcript
	s.seq = 0
	running.follow(&s, s.ended)
	if s.terminal["type"] != typeStopped || s.terminal["reason"] != "drain" {
		t.Errorf("ended with %v", s.terminal)
	}
	running.wantClose(websocket.StatusGoingAway)
	f.next(t).wantStop(t, "drain")
}
