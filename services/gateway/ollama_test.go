package gateway

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// serveOllama starts a gateway whose url is that of the Ollama listener.
func serveOllama(t *testing.T, edit ...func(*Config, *Deps)) *front {
	t.Helper()
	f := serve(t, append(edit, func(c *Config, _ *Deps) { c.Ollama, c.Version = "127.0.0.1:0", "1.2.3" })...)
	f.url = "http://" + f.OllamaAddr().String()
	return f
}

// lines reads newline-delimited JSON.
func lines(t *testing.T, body string) []map[string]any {
	t.Helper()
	var list []map[string]any
	for line := range strings.Lines(body) {
		var doc map[string]any
		if err := json.Unmarshal([]byte(line), &doc); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, doc)
	}
	return list
}

func TestOllamaChatStreams(t *testing.T) {
	f := serveOllama(t)
	status, header, body := f.post(t, "/api/chat", `{"model":"tiny:latest","messages":[{"role":"user","content":"hi"}],"keep_alive":"5m",
		"options":{"temperature":0.5,"num_predict":9,"stop":["x"],"repeat_last_n":-1,"seed":3,"num_ctx":128}}`)
	if status != 200 || header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("status %d, %v: %s", status, header, body)
	}
	text, list := "", lines(t, body)
	for i, doc := range list {
		m := doc["message"].(map[string]any)
		text += m["content"].(string)
		if doc["model"] != "tiny:latest" || m["role"] != "assistant" || doc["done"] != (i == len(list)-1) {
			t.Errorf("line %d: %v", i, doc)
		}
	}
	last := list[len(list)-1]
	if text != "Hello world" || last["done_reason"] != "stop" || last["prompt_eval_count"] != 3. || last["eval_count"] != 3. ||
		last["prompt_eval_duration"] != 10e6 || last["eval_duration"] != 100e6 || last["total_duration"].(float64) <= 0 {
		t.Errorf("text %q, last %v", text, last)
	}
	g := f.next(t)
	s := g.GetSampling()
	if g.GetModel() != "tiny" || s.GetTemperature() != 0.5 || s.GetMaxTokens() != 9 || s.GetTopK() != ollamaTopK || s.GetPenaltyWindow() != 0 ||
		s.GetSeed() != 3 || !g.GetSeedSet() || g.GetKv().GetMaxSeqLen() != 128 || len(g.GetStop()) != 1 {
		t.Errorf("the coordinator saw %v", g.Generation)
	}
}

func TestOllamaGenerateWhole(t *testing.T) {
	f := serveOllama(t)
	status, _, body := f.post(t, "/api/generate", `{"model":"tiny","prompt":"hi","system":"be","stream":false}`)
	got := lines(t, body)[0]
	if status != 200 || got["response"] != "Hello world" || got["done"] != true {
		t.Errorf("status %d: %s", status, body)
	}
	if m := f.next(t).GetChat().GetMessages(); len(m) != 2 || m[0].GetRole() != "system" || m[1].GetContent() != "hi" {
		t.Errorf("messages %v", m)
	}
	if _, _, body := f.post(t, "/api/generate", `{"model":"tiny","prompt":"hi","raw":true,"stream":false}`); f.next(t).GetRaw() != "hi" {
		t.Errorf("raw: %s", body)
	}
	if _, _, body := f.post(t, "/api/generate", `{"model":"models/llama-7b"}`); lines(t, body)[0]["done_reason"] != "load" {
		t.Errorf("load: %s", body)
	}
}

func TestOllamaStopsWithItsClient(t *testing.T) {
	f := serveOllama(t)
	f.fake.set((*fakeGeneration).endless)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+"/api/generate", strings.NewReader(`{"model":"tiny","prompt":"hi"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := httpClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resp.Body.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	f.next(t).wantStop(t, "client")
}

func TestOllamaTools(t *testing.T) {
	f := serveOllama(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		e := tokenEvent(1, "")
		e.GetToken().Delta = &pb.Delta{Delta: &pb.Delta_ToolCall{ToolCall: &pb.ToolCall{Id: "x", Name: "weather", Arguments: `{"city":"Rome"}`}}}
		g.send(g.number, e, completeEvent("tool_calls", 1, ""))
	})
	for _, stream := range []string{"false", "true"} {
		_, _, body := f.post(t, "/api/chat", `{"model":"tiny","stream":`+stream+`,"messages":[{"role":"user","content":"hi"},
			{"role":"assistant","content":"","tool_calls":[{"function":{"name":"time","arguments":{}}},{"function":{"name":"weather","arguments":{"city":"Oslo"}}}]},
			{"role":"tool","tool_name":"weather","content":"cold"},{"role":"tool","content":"noon"}],
			"tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object"}}}]}`)
		list := lines(t, body)
		message := list[0]["message"].(map[string]any)
		want := []any{map[string]any{"function": map[string]any{"name": "weather", "arguments": map[string]any{"city": "Rome"}}}}
		if diff := cmp.Diff(want, message["tool_calls"]); diff != "" || list[len(list)-1]["done_reason"] != "stop" {
			t.Errorf("stream %s: %s (-want +got):\n%s", stream, body, diff)
		}
		g := f.next(t)
		m := g.GetChat().GetMessages()
		if len(g.GetTools()) != 1 || m[2].GetToolCallId() != m[1].GetToolCalls()[1].GetId() || m[3].GetToolCallId() != m[1].GetToolCalls()[0].GetId() {
			t.Errorf("the coordinator saw %v", g.Generation)
		}
	}
}

func TestOllamaFormat(t *testing.T) {
	f := serveOllama(t)
	for format, want := range map[string]*pb.ResponseFormat{
		`"json"`:            {Type: "json_object"},
		`{"type":"object"}`: {Type: "json_schema", Schema: `{"type": "object"}`},
		`""`:                nil,
	} {
		f.post(t, "/api/generate", `{"model":"tiny","prompt":"hi","format":`+format+`}`)
		if got := f.next(t).GetResponseFormat(); !proto.Equal(got, want) {
			t.Errorf("format %s: %v", format, got)
		}
	}
}

func TestOllamaLists(t *testing.T) {
	f := serveOllama(t)
	get := func(path string) string {
		status, _, body := f.do(t, http.MethodGet, path, "")
		if status != 200 {
			t.Errorf("%s: status %d: %s", path, status, body)
		}
		return body
	}
	if body := get("/"); body != "Ollama is running" {
		t.Errorf("root %q", body)
	}
	if body := get("/api/version"); lines(t, body)[0]["version"] != "1.2.3" {
		t.Errorf("version %s", body)
	}
	for _, path := range []string{"/api/tags", "/api/ps"} {
		var list struct{ Models []ollamaModel }
		if err := json.Unmarshal([]byte(get(path)), &list); err != nil || len(list.Models) != 1 || list.Models[0].Name != "tiny:latest" {
			t.Errorf("%s: %+v, %v", path, list, err)
		}
	}
	for _, name := range []string{"tiny", "tiny:latest", "models/llama-7b"} {
		if status, _, body := f.post(t, "/api/show", `{"model":"`+name+`"}`); status != 200 || !strings.Contains(body, "capabilities") {
			t.Errorf("show %s: status %d: %s", name, status, body)
		}
	}
}

func TestOllamaPull(t *testing.T) {
	f := serveOllama(t)
	digest := strings.Repeat("0123456789abcdef", 4)
	f.report(t, &pb.ClusterResponse{Ready: true, Models: []*pb.ModelInfo{
		{Name: "tiny", State: "ready", Size: 1000, Digest: digest}, {Name: "bad", State: "failed", Reason: "layer 3 is damaged"},
	}})
	_, header, body := f.post(t, "/api/pull", `{"model":"tiny:latest"}`)
	want := []map[string]any{
		{"status": "pulling manifest"},
		{"status": "pulling 0123456789ab", "digest": "sha256:" + digest, "total": 1000., "completed": 1000.},
		{"status": "verifying sha256 digest"}, {"status": "writing manifest"}, {"status": "success"},
	}
	if diff := cmp.Diff(want, lines(t, body)); diff != "" || header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("pull as %s (-want +got):\n%s", header.Get("Content-Type"), diff)
	}
	if _, _, body := f.post(t, "/api/pull", `{"model":"tiny","stream":false}`); lines(t, body)[0]["status"] != "success" || len(lines(t, body)) != 1 {
		t.Errorf("pull at once: %s", body)
	}
	for name, c := range map[string]struct {
		status int
		words  []string
	}{
		"other": {404, []string{`"other" is not served here`, "Served: tiny, bad.", "--models", "--model NAME"}},
		"bad":   {503, []string{"layer 3 is damaged"}},
	} {
		for _, stream := range []string{"true", "false"} {
			status, _, body := f.post(t, "/api/pull", `{"model":"`+name+`","stream":`+stream+`}`)
			text, _ := lines(t, body)[0]["error"].(string)
			for _, word := range c.words {
				if status != c.status || !strings.Contains(text, word) {
					t.Errorf("pull %s: status %d, no %q in %s", name, status, word, body)
				}
			}
		}
	}
}

func TestOllamaEmbed(t *testing.T) {
	f := serveOllama(t)
	f.fake.set(embedLength)
	_, _, body := f.post(t, "/api/embed", `{"model":"tiny","input":["ab","abc"]}`)
	var got ollamaEmbeddings
	if err := json.Unmarshal([]byte(body), &got); err != nil || len(got.Embeddings) != 2 || got.Embeddings[1][0] != 3 || got.PromptCount != 5 {
		t.Errorf("%v: %s", err, body)
	}
}

func TestOllamaErrors(t *testing.T) {
	f := serveOllama(t, func(c *Config, _ *Deps) { c.APIKeys = []string{"k"} })
	f.fake.set(func(g *fakeGeneration) { g.send(g.number, errorEvent("model_not_found", "model", false)) })
	good := `{"model":"x","messages":[{"role":"user","content":"hi"}]}`
	for _, c := range []struct {
		path, body, key string
		status          int
		want            string
	}{
		{"/api/chat", good, "", 401, "key"},
		{"/api/chat", good, "k", 404, "wrong"},
		{"/api/chat", `{"model":"x","options":{"num_gpu":1}}`, "k", 400, "num_gpu"},
		{"/api/chat", `{"model":"x","messages":[{"role":"user","content":"a","images":["x"]}]}`, "k", 400, "images"},
		{"/api/generate", `{"model":"x","prompt":"a","suffix":"b"}`, "k", 400, "suffix"},
		{"/api/generate", `{"model":"x","prompt":"a","context":[1]}`, "k", 400, "context"},
		{"/api/generate", `{`, "k", 400, ""},
		{"/api/embed", `{"model":"x","input":"a","truncate":true}`, "k", 400, "truncate"},
		{"/api/nothing", `{}`, "k", 404, "nothing"},
		{"/api/show", `{}`, "k", 400, "model"},
		{"/api/chat", `{"model":"x","messages":[{"role":"tool","content":"a"}]}`, "k", 400, "role"},
		{"/api/generate", `{"model":"x","prompt":"a","format":"xml"}`, "k", 400, "format"},
	} {
		status, _, body := f.post(t, c.path, c.body, "Authorization", "Bearer "+c.key)
		text, isText := lines(t, body)[0]["error"].(string)
		if status != c.status || !isText || !strings.Contains(text, c.want) {
			t.Errorf("%s %s: status %d: %s", c.path, c.body, status, body)
		}
	}
	if status, _, body := f.post(t, "/api/chat", good, "Host", "evil.example"); status != 421 || !strings.HasPrefix(body, `{"error":"`) {
		t.Errorf("a strange host: status %d: %s", status, body)
	}
}

func TestOllamaStreamBreaksWithAnError(t *testing.T) {
	f := serveOllama(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		g.send(g.number, tokenEvent(1, "Hel"), errorEvent("shard_lost", "", true))
	})
	_, _, body := f.post(t, "/api/generate", `{"model":"tiny","prompt":"hi"}`)
	list := lines(t, body)
	if len(list) != 2 || list[1]["error"] == nil || list[1]["done"] != nil {
		t.Errorf("the stream is %s", body)
	}
}

func TestOllamaListenerKeepsTheRules(t *testing.T) {
	_, err := New(Config{Listen: "127.0.0.1:0", GRPCListen: "127.0.0.1:0", Ollama: "0.0.0.0:0"}, Deps{Coordinator: dialFake(t, newFake())})
	if err == nil || !strings.Contains(err.Error(), "--ollama") {
		t.Errorf("a public listener without a key: %v", err)
	}
}
