package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// page is the client of the guide's sample: it sends one JSON text and reads
// frames by their type.
type pageSocket struct {
	t    *testing.T
	conn *websocket.Conn
}

type frame map[string]any

func (f *front) dial(t *testing.T, opts *websocket.DialOptions) *pageSocket {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), f.url+"/streaming", opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	return &pageSocket{t, conn}
}

func (p *pageSocket) send(text string) {
	p.t.Helper()
	if err := p.conn.Write(p.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pageSocket) read() frame {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	kind, data, err := p.conn.Read(ctx)
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	if kind != websocket.MessageText {
		p.t.Fatalf("frame of kind %v", kind)
	}
	var f frame
	if err := json.Unmarshal(data, &f); err != nil {
		p.t.Fatalf("%s: %v", data, err)
	}
	return f
}

// wantClose reads until the server closes and checks the code.
func (p *pageSocket) wantClose(code websocket.StatusCode) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for {
		if _, _, err := p.conn.Read(ctx); err != nil {
			if got := websocket.CloseStatus(err); got != code {
				p.t.Errorf("closed with %d (%v), want %d", got, err, code)
			}
			return
		}
	}
}

// answer reads the frames of one generation up to its terminal.
func (p *pageSocket) answer() (text string, tokens int, last frame) {
	p.t.Helper()
	for {
		f := p.read()
		if f["type"] != "token" {
			return text, tokens, f
		}
		tokens++
		if f["seq"] != float64(tokens) {
			p.t.Fatalf("frame %v where seq %d was due", f, tokens)
		}
		text += f["token"].(string)
	}
}

// The guide's browser sample, word for word.
const guideRequest = `{"prompt":"Explain streaming inference","maxTokens":100,"temperature":0.7,"precision":"int4"}`

func TestPlainGuideSample(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		g.send(g.number, tokenEvent(1, "Hel"), tokenEvent(2, ""), tokenEvent(3, "lo"))
		g.send(g.number, completeEvent("length", 3, " …"))
	})
	p := f.dial(t, nil)
	p.send(guideRequest)

	want := []frame{
		{"type": "token", "token": "Hel", "seq": 1.},
		{"type": "token", "token": "", "seq": 2.},
		{"type": "token", "token": "lo", "seq": 3.},
		{
			"type": "complete", "text": "Hello …", "finishReason": "length", "model": "tiny", "precision": "int8",
			"usage":   map[string]any{"promptTokens": 3., "completionTokens": 3.},
			"timings": map[string]any{"queueMs": 1., "promptMs": 10., "predictedMs": 100., "tokensPerSecond": 20.},
		},
	}
	for i, w := range want {
		got := p.read()
		if i == len(want)-1 {
			if id, _ := got["requestId"].(string); len(id) != 32 {
				t.Errorf("requestId %q, want a trace id", id)
			}
			delete(got, "requestId")
		}
		if diff := cmp.Diff(w, got); diff != "" {
			t.Errorf("frame %d (-want +got):\n%s", i, diff)
		}
	}

	g := f.next(t)
	if g.GetPrompt() != "Explain streaming inference" || g.GetPrecision() != "int4" || g.GetTenant() != "local" ||
		g.GetSampling().GetMaxTokens() != 100 || g.GetSampling().GetTemperature() != 0.7 || !g.GetMaxTokensClamp() {
		t.Errorf("the coordinator saw %v", g.Generation)
	}
	if len(g.GetTraceparent()) != 55 {
		t.Errorf("traceparent %q", g.GetTraceparent())
	}
}

func TestPlainDefaults(t *testing.T) {
	f := serve(t)
	p := f.dial(t, &websocket.DialOptions{Subprotocols: []string{"shoal.v1.plain"}})
	if p.conn.Subprotocol() != "shoal.v1.plain" {
		t.Errorf("subprotocol %q", p.conn.Subprotocol())
	}
	p.send(`{"prompt":"hi"}`)
	if text, n, last := p.answer(); text != "Hello world" || n != 3 || last["type"] != "complete" {
		t.Errorf("answer %q of %d tokens, then %v", text, n, last)
	}
	g := f.next(t)
	if s := g.GetSampling(); s.GetMaxTokens() != 500 || s.GetTemperature() != 0.7 || g.GetSeedSet() || g.GetPrecision() != "" {
		t.Errorf("the coordinator saw %v", g.Generation)
	}
}

func TestPlainBusyThenNext(t *testing.T) {
	f := serve(t)
	release := make(chan struct{})
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		g.send(g.number, tokenEvent(1, "one"))
		<-release
		g.send(g.number, completeEvent("stop", 1, ""))
	})
	p := f.dial(t, nil)
	p.send(`{"prompt":"first"}`)
	if got := p.read(); got["token"] != "one" {
		t.Fatalf("got %v", got)
	}
	p.send(`{"prompt":"second"}`)
	if got := p.read(); got["type"] != "error" || got["code"] != "busy" || got["retryable"] != true || got["requestId"] == "" {
		t.Errorf("a second request got %v", got)
	}
	close(release)
	if got := p.read(); got["type"] != "complete" || got["text"] != "one" {
		t.Errorf("the first ended with %v", got)
	}
	p.send(`{"prompt":"third"}`)
	if text, _, last := p.answer(); text != "one" || last["type"] != "complete" {
		t.Errorf("the third got %q, then %v", text, last)
	}
	if a, b := f.next(t), f.next(t); a.GetPrompt() != "first" || b.GetPrompt() != "third" {
		t.Errorf("the coordinator saw %q and %q", a.GetPrompt(), b.GetPrompt())
	}
}

func TestPlainCloseStops(t *testing.T) {
	for name, leave := range map[string]func(*websocket.Conn){
		"close handshake": func(c *websocket.Conn) { c.Close(websocket.StatusNormalClosure, "") },
		"lost":            func(c *websocket.Conn) { c.CloseNow() },
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			f.fake.set((*fakeGeneration).endless)
			p := f.dial(t, nil)
			p.send(`{"prompt":"go on"}`)
			p.read()
			leave(p.conn)
			f.next(t).wantStop(t, "client")
		})
	}
}

func TestPlainCloseStopsBeforeFirstToken(t *testing.T) {
	f := serve(t)
	f.fake.set((*fakeGeneration).silent)
	p := f.dial(t, nil)
	p.send(`{"prompt":"think"}`)
	g := f.next(t)
	p.conn.Close(websocket.StatusNormalClosure, "")
	g.wantStop(t, "client")
}

func TestTwoClientsGetTheirOwn(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		words := strings.Fields(strings.Repeat(g.GetPrompt()+" ", 200))
		g.answer(words...)
	})
	done := make(chan error, 2)
	for _, name := range []string{"anna", "bert"} {
		p := f.dial(t, nil)
		p.send(fmt.Sprintf(`{"prompt":%q}`, name))
		go func() {
			text := ""
			for range 201 {
				_, data, err := p.conn.Read(t.Context())
				if err != nil {
					done <- err
					return
				}
				var fr struct{ Token string }
				if err := json.Unmarshal(data, &fr); err != nil {
					done <- err
					return
				}
				text += fr.Token
			}
			if text != strings.Repeat(name, 200) {
				done <- fmt.Errorf("%s got %q", name, text)
				return
			}
			done <- nil
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A reader that does not read stops the coordinator by its credit, and nothing
// grows; when it reads on it gets everything in order.
func TestCreditFollowsTheReader(t *testing.T) {
	f := serve(t)
	const tokens = 1000
	words := make([]string, tokens)
	for i := range words {
		words[i] = "x"
	}
	f.fake.set(func(g *fakeGeneration) { g.answer(words...) })
	next, leave := pull(f.relay.generate(t.Context(), &pb.Generation{Input: &pb.Generation_Prompt{Prompt: "hi"}}))
	defer leave()
	if e, _ := next(); e.GetAccepted() == nil {
		t.Fatalf("first event %v", e)
	}
	g := f.next(t)
	g.mu.Lock()
	granted := g.credit
	g.mu.Unlock()
	if granted > window {
		t.Errorf("credit %d before anything was read", granted)
	}
	for seq := uint64(1); seq <= tokens; seq++ {
		e, _ := next()
		if e.GetToken().GetSeq() != seq {
			t.Fatalf("event %v where token %d was due", e, seq)
		}
		g.mu.Lock()
		if g.credit > seq+window {
			t.Errorf("credit %d after %d tokens", g.credit, seq)
		}
		g.mu.Unlock()
	}
	if e, _ := next(); e.GetComplete() == nil {
		t.Errorf("last event %v", e)
	}
}

func TestPlainBrokenRelay(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.Limits.Recovery = time.Nanosecond })
	f.fake.set((*fakeGeneration).endless)
	p := f.dial(t, nil)
	p.send(`{"prompt":"go on"}`)
	p.read()
	f.fake.breakStreams()
	_, _, last := p.answerFrom()
	if last["type"] != "error" || last["code"] != "coordinator_lost" || last["retryable"] != true || last["message"] == "" {
		t.Errorf("the answer ended with %v", last)
	}
	// The socket is still good, and so is the gateway once it has connected again.
	f.fake.set(func(g *fakeGeneration) { g.answer("again") })
	p.send(`{"prompt":"once more"}`)
	if text, _, last := p.answer(); text != "again" || last["type"] != "complete" {
		t.Errorf("after the break: %q, then %v", text, last)
	}
}

// answerFrom reads the rest of an answer that has begun.
func (p *pageSocket) answerFrom() (text string, tokens int, last frame) {
	p.t.Helper()
	for {
		f := p.read()
		if f["type"] != "token" {
			return text, tokens, f
		}
		tokens++
		text += f["token"].(string)
	}
}

func TestPlainErrorsKeepTheSocket(t *testing.T) {
	f := serve(t)
	p := f.dial(t, nil)
	for _, c := range []struct{ send, code, param string }{
		{`not json`, "invalid_request_error", ""},
		{``, "invalid_request_error", ""},
		{`null`, "invalid_request_error", ""},
		{`[]`, "invalid_request_error", ""},
		{`{}`, "invalid_request_error", "prompt"},
		{`{"prompt":"a"} {"prompt":"b"}`, "invalid_request_error", ""},
		{`{"prompt":"a","prompt":"b"}`, "invalid_request_error", "prompt"},
		{`{"prompt":"\ud800"}`, "invalid_request_error", "prompt"},
		{`{"prompt":"\u0000"}`, "invalid_request_error", "prompt"},
		{`{"prompt":5}`, "invalid_request_error", "prompt"},
		{`{"prompt":"a","shine":true}`, "unsupported_option", "shine"},
		{`{"prompt":"a","images":["https://example.com/a.png"]}`, "invalid_request_error", "images[0]"},
		{`{"prompt":"a","raw":true,"images":["data:image/png;base64,AAAA"]}`, "invalid_request_error", "images"},
		{`{"messages":[{"role":"user","content":"a"}],"images":["data:image/png;base64,AAAA"]}`, "invalid_request_error", "images"},
		{`{"prompt":"a","config":{"memoryOptimizedMode":true}}`, "unsupported_option", "config.memoryOptimizedMode"},
		{`{"prompt":"a","maxTokens":0}`, "invalid_request_error", "maxTokens"},
		{`{"prompt":"a","temperature":"hot"}`, "invalid_request_error", "temperature"},
		{`{"prompt":"a","topP":0}`, "invalid_request_error", "topP"},
		{`{"prompt":"a","stop":""}`, "invalid_request_error", "stop"},
		{`{"prompt":"a","stop":["x",""]}`, "invalid_request_error", "stop[1]"},
		{`{"prompt":"a","messages":[{"role":"user","content":"b"}]}`, "invalid_request_error", "messages"},
		{`{"messages":[{"role":"wizard","content":"b"}]}`, "invalid_request_error", "messages[0].role"},
		{`{"prompt":"a","precision":5}`, "invalid_request_error", "precision"},
		{`{"prompt":"a","precision":"int4","config":{"quantization":8}}`, "invalid_request_error", "config.quantization"},
		{`{"prompt":"a","model":"` + strings.Repeat("x", 10_000) + `"}`, "model_not_found", "model"},
	} {
		p.send(c.send)
		got := p.read()
		param, _ := got["param"].(string)
		if got["type"] != "error" || got["code"] != c.code || param != c.param || got["message"] == "" || got["retryable"] != false {
			t.Errorf("%.60s: got %v, want %s on %q", c.send, got, c.code, c.param)
		}
	}
	p.send(`{"prompt":"hi"}`)
	if text, _, last := p.answer(); text != "Hello world" || last["type"] != "complete" {
		t.Errorf("after the errors: %q, then %v", text, last)
	}
}

func TestPlainOptionsReachTheCoordinator(t *testing.T) {
	f := serve(t)
	p := f.dial(t, nil)
	p.send(`{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"assistant","content":"c"},{"role":"user","content":"d"}],
		"system":"be kind","modelPath":"models/llama-7b","config":{"quantization":8},"topP":0.9,"topK":40,"minP":0.05,
		"repetitionPenalty":1.1,"presencePenalty":0.5,"frequencyPenalty":-0.5,"stop":["x","y"],"seed":18446744073709551615,"maxTokens":7,"temperature":0}`)
	p.answer()
	got := f.next(t).Generation
	got.Traceparent = ""
	want := &pb.Generation{
		Model: "models/llama-7b", Precision: "int8", Tenant: "local", Stop: []string{"x", "y"}, SeedSet: true, MaxTokensClamp: true,
		Input: &pb.Generation_Chat{Chat: &pb.Chat{Messages: []*pb.Message{
			{Role: "system", Content: "be kind"}, {Role: "user", Content: "ab"}, {Role: "assistant", Content: "c"}, {Role: "user", Content: "d"},
		}}},
		Sampling: &pb.Sampling{
			MaxTokens: 7, TopP: 0.9, TopK: 40, MinP: 0.05, RepetitionPenalty: 1.1,
			PresencePenalty: 0.5, FrequencyPenalty: -0.5, Seed: 18446744073709551615,
		},
	}
	wantSame(t, want, got)

	p.send(`{"prompt":"once upon","raw":true}`)
	p.answer()
	if g := f.next(t); g.GetRaw() != "once upon" {
		t.Errorf("raw request arrived as %v", g.Generation)
	}
}

func TestPlainServerErrorAndStopped(t *testing.T) {
	f := serve(t)
	p := f.dial(t, nil)
	f.fake.set(func(g *fakeGeneration) { g.send(g.number, errorEvent("model_not_found", "model", false)) })
	p.send(`{"prompt":"hi","model":"../etc"}`)
	if got := p.read(); got["type"] != "error" || got["code"] != "model_not_found" || got["param"] != "model" {
		t.Errorf("got %v", got)
	}
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		g.send(g.number, &pb.Event{Event: &pb.Event_Stopped{Stopped: &pb.Stopped{Reason: "deadline"}}})
	})
	p.send(`{"prompt":"hi"}`)
	if got := p.read(); got["type"] != "stopped" || got["reason"] != "deadline" || got["requestId"] == "" {
		t.Errorf("got %v", got)
	}
}

func TestSocketFrames(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.Limits.SocketFrame = 1024 })
	binary := f.dial(t, nil)
	if err := binary.conn.Write(t.Context(), websocket.MessageBinary, []byte(`{"prompt":"hi"}`)); err != nil {
		t.Fatal(err)
	}
	binary.wantClose(websocket.StatusUnsupportedData)
	big := f.dial(t, nil)
	big.send(`{"prompt":"` + strings.Repeat("x", 2000) + `"}`)
	big.wantClose(websocket.StatusMessageTooBig)
}

// W01, W02: who may open a socket, before it is one.
func TestHandshakeIsRefused(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) {
		c.APIKeys = []string{"sesame"}
		c.AllowedOrigins = []string{"https://chat.example.com"}
	})
	host := strings.TrimPrefix(f.url, "http://")
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	good := []string{"Sec-WebSocket-Protocol", "shoal.v1.plain, bearer.sesame"}
	for name, c := range map[string]struct {
		headers []string
		status  int
	}{
		"no key":                {nil, 401},
		"wrong key":             {[]string{"Sec-WebSocket-Protocol", "shoal.v1.plain, bearer.wrong"}, 401},
		"only unknown protocol": {[]string{"Sec-WebSocket-Protocol", "graphql-ws", "Authorization", "Bearer sesame"}, 400},
		"evil origin":           {append([]string{"Origin", "http://evil.com"}, good...), 403},
		"null origin":           {append([]string{"Origin", "null"}, good...), 403},
		"name inside a name":    {append([]string{"Origin", "http://localhost.evil.com"}, good...), 403},
		"name before a name":    {append([]string{"Origin", "http://" + host + ".evil.com"}, good...), 403},
		"user before a name":    {append([]string{"Origin", "http://" + host + "@evil.com"}, good...), 403},
		"path after a name":     {append([]string{"Origin", "http://" + host + "/"}, good...), 403},
		"upper case evil":       {append([]string{"Origin", "HTTP://LOCALHOST.EVIL.COM"}, good...), 403},
		"upper case own":        {append([]string{"Origin", "HTTP://" + strings.ToUpper(host)}, good...), 101},
		"port of evil":          {append([]string{"Host", "evil.com:80", "Origin", "http://evil.com:80"}, good...), 421},
		"other port":            {append([]string{"Origin", "http://127.0.0.1:1"}, good...), 403},
		"two origins":           {append([]string{"Origin", "http://" + host, "Origin", "http://evil.com"}, good...), 403},
		"rebound name":          {append([]string{"Host", "evil.com", "Origin", "http://evil.com"}, good...), 421},
		"same origin":           {append([]string{"Origin", "http://" + host}, good...), 101},
		"allowed origin":        {append([]string{"Origin", "https://chat.example.com"}, good...), 101},
		"key in a header":       {[]string{"Authorization", "Bearer sesame"}, 101},
		"upgrade is missing":    {append([]string{"Connection", "keep-alive"}, good...), 426},
	} {
		t.Run(name, func(t *testing.T) {
			headers := append([]string{}, c.headers...)
			if c.status != 426 {
				headers = append(headers, upgrade...)
			}
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+"/streaming", nil)
			for i := 0; i < len(headers); i += 2 {
				if headers[i] == "Host" {
					req.Host = headers[i+1]
				} else {
					req.Header.Add(headers[i], headers[i+1])
				}
			}
			resp, err := httpClient(t).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("status %d, want %d", resp.StatusCode, c.status)
			}
		})
	}
}

func TestSocketLimit(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.Limits.Sockets = 1 })
	p := f.dial(t, nil)
	_, resp, err := websocket.Dial(t.Context(), f.url+"/streaming", nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("a second socket: %v", err)
	}
	p.send(`{"prompt":"hi"}`)
	if _, _, last := p.answer(); last["type"] != "complete" {
		t.Errorf("the first socket got %v", last)
	}
}

func TestDrain(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.Limits.Drain = 20 * time.Millisecond })
	f.fake.set((*fakeGeneration).silent)
	idle, running := f.dial(t, nil), f.dial(t, nil)
	running.send(`{"prompt":"think"}`)
	g := f.next(t)
	f.stop()
	idle.wantClose(websocket.StatusGoingAway)
	if got := running.read(); got["type"] != "stopped" || got["reason"] != "drain" {
		t.Errorf("the running answer ended with %v", got)
	}
	g.wantStop(t, "drain")
	running.wantClose(websocket.StatusGoingAway)
}

// A client that never says goodbye does not keep the gateway from ending.
func TestDrainCutsSilentSockets(t *testing.T) {
	t.Parallel()
	f := serve(t)
	f.dial(t, nil) // and never reads
	f.stop()
	select {
	case err := <-f.done:
		f.done <- err
	case <-time.After(patience):
		t.Fatal("Run does not return")
	}
	if n := f.sockets.inside.Load(); n != 0 {
		t.Errorf("%d sockets are left", n)
	}
}

func TestLogHasNoPrompt(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) { g.answer("the", "butler", "did", "it") })
	p := f.dial(t, nil)
	p.send(`{"prompt":"xyzzy plugh"}`)
	_, _, last := p.answer()
	p.conn.Close(websocket.StatusNormalClosure, "")
	f.stop()
	if err := <-f.done; err != nil {
		t.Error(err)
	}
	f.done <- nil
	log := f.log.String()
	if strings.Contains(log, "xyzzy") || strings.Contains(log, "butler") {
		t.Errorf("the log holds text of a user:\n%s", log)
	}
	if id := last["requestId"].(string); !strings.Contains(log, `"request":"`+id+`"`) {
		t.Errorf("the log does not hold the request %s:\n%s", id, log)
	}
}
