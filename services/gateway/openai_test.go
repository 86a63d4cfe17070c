package gateway

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

const chatPath = "/v1/chat/completions"

// chatBody is a good request with more members.
func chatBody(more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"model":"tiny","messages":[{"role":"user","content":"hi"}]` + more + `}`
}

type errorReply struct {
	Error struct {
		Message, Type, Code string
		Param               *string
	}
}

func parseError(t *testing.T, body string) errorReply {
	t.Helper()
	var e errorReply
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Fatalf("error body %q: %v", body, err)
	}
	return e
}

func TestChatWhole(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		g.send(g.number, tokenEvent(1, "Hel"), tokenEvent(2, "lo"), completeEvent("stop", 2, "!"))
	})
	status, header, body := f.post(t, chatPath, chatBody(""), "X-Request-Id", "my-id-1")
	if status != 200 || header.Get("X-Request-Id") != "my-id-1" {
		t.Fatalf("status %d, id %q: %s", status, header.Get("X-Request-Id"), body)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if created, _ := got["created"].(float64); created < 1.7e9 {
		t.Errorf("created %v", got["created"])
	}
	delete(got, "created")
	want := map[string]any{
		"id": "chatcmpl-my-id-1", "object": "chat.completion", "model": "tiny", "system_fingerprint": "f00d",
		"choices": []any{map[string]any{
			"index": 0., "message": map[string]any{"role": "assistant", "content": "Hello!", "refusal": nil},
			"logprobs": nil, "finish_reason": "stop",
		}},
		"usage": map[string]any{
			"prompt_tokens": 3., "completion_tokens": 2., "total_tokens": 5.,
			"prompt_tokens_details": map[string]any{"cached_tokens": 0.},
		},
		"timings": map[string]any{
			"prompt_n": 3., "prompt_ms": 10., "prompt_per_second": 300.,
			"predicted_n": 2., "predicted_ms": 100., "predicted_per_second": 10.,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	g := f.next(t)
	if g.GetModel() != "tiny" || g.GetSampling().GetTemperature() != 1 || g.GetSampling().GetMaxTokens() != 0 || !g.GetMaxTokensClamp() {
		t.Errorf("the coordinator saw %v", g.Generation)
	}
}

// events reads a whole stream: the data of each event, and whether it ended as
// a good stream does.
func events(t *testing.T, body string) []string {
	t.Helper()
	var list []string
	for block := range strings.SplitSeq(strings.TrimSuffix(body, "\n\n"), "\n\n") {
		if strings.HasPrefix(block, ": ") {
			continue // a comment
		}
		data, ok := strings.CutPrefix(block, "data: ")
		if !ok || strings.Contains(data, "\n") {
			t.Fatalf("not one data line: %q", block)
		}
		list = append(list, data)
	}
	if !strings.HasSuffix(body, "\n\n") {
		t.Error("the last event is not closed")
	}
	return list
}

func TestChatStream(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		g.send(g.number, tokenEvent(1, "Hel"), tokenEvent(2, ""), tokenEvent(3, "lo"), completeEvent("length", 3, "?"))
	})
	status, header, body := f.post(t, "/chat/completions", chatBody(`"stream":true,"stream_options":{"include_usage":true}`))
	if status != 200 || header.Get("Content-Type") != "text/event-stream" || header.Get("Cache-Control") != "no-cache" || header.Get("X-Accel-Buffering") != "no" {
		t.Fatalf("status %d, headers %v", status, header)
	}
	list := events(t, body)
	if list[len(list)-1] != "[DONE]" {
		t.Errorf("the stream ends with %q", list[len(list)-1])
	}
	var shapes []string
	ids := map[string]bool{}
	for _, data := range list[:len(list)-1] {
		var c map[string]any
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		ids[fmt.Sprint(c["id"], c["created"], c["object"], c["model"], c["system_fingerprint"])] = true
		if _, ok := c["usage"]; !ok {
			t.Errorf("%s has no usage member", data)
		}
		shapes = append(shapes, shape(c))
	}
	want := []string{
		`{"content":"","role":"assistant"} <nil>`, `{"content":"Hel"} <nil>`, `{"content":"lo"} <nil>`,
		`{"content":"?"} <nil>`, `{} length`, `usage 6`,
	}
	if diff := cmp.Diff(want, shapes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(ids) != 1 {
		t.Errorf("chunks differ in their head: %v", ids)
	}
}

// shape tells what a chunk adds.
func shape(c map[string]any) string {
	choices := c["choices"].([]any)
	if len(choices) == 0 {
		return fmt.Sprintf("usage %v", c["usage"].(map[string]any)["total_tokens"])
	}
	choice := choices[0].(map[string]any)
	delta, _ := json.Marshal(choice["delta"])
	return fmt.Sprintf("%s %v", delta, choice["finish_reason"])
}

func TestChatStreamWithoutUsage(t *testing.T) {
	f := serve(t)
	_, _, body := f.post(t, chatPath, chatBody(`"stream":true`))
	if strings.Contains(body, `"usage"`) || strings.Contains(body, "obfuscation") || !strings.HasSuffix(body, "data: [DONE]\n\n") {
		t.Errorf("stream %s", body)
	}
	_, _, padded := f.post(t, chatPath, chatBody(`"stream":true,"stream_options":{"include_obfuscation":true}`))
	for _, data := range events(t, padded) {
		var c chatChunk
		if data == "[DONE]" || json.Unmarshal([]byte(data), &c) != nil || len(c.Choices) == 0 || c.Choices[0].Delta.Content == nil {
			continue
		}
		if n := len(*c.Choices[0].Delta.Content) + len(c.Obfuscation); n%32 != 0 || c.Obfuscation == "" {
			t.Errorf("%s is padded to %d", data, n)
		}
	}
}

func TestChatErrorsBeforeAndWithinTheStream(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) { g.send(g.number, errorEvent("no_capacity", "", true)) })
	for _, stream := range []string{`"stream":true`, `"stream":false`} {
		status, header, body := f.post(t, chatPath, chatBody(stream))
		if e := parseError(t, body); status != 503 || e.Error.Code != "no_capacity" || header.Get("Retry-After") == "" {
			t.Errorf("%s: status %d, %s", stream, status, body)
		}
	}
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		g.send(g.number, tokenEvent(1, "one"), errorEvent("shard_lost", "", true))
	})
	status, _, body := f.post(t, chatPath, chatBody(`"stream":true`))
	list := events(t, body)
	if e := parseError(t, list[len(list)-1]); status != 200 || e.Error.Code != "shard_lost" || e.Error.Type != "server_error" || strings.Contains(body, "[DONE]") {
		t.Errorf("status %d, stream %s", status, body)
	}
	if status, _, body := f.post(t, chatPath, chatBody("")); status != 503 || parseError(t, body).Error.Code != "shard_lost" {
		t.Errorf("status %d, %s", status, body)
	}
}

func TestChatDisconnectStops(t *testing.T) {
	for _, stream := range []bool{true, false} {
		t.Run(fmt.Sprintf("stream=%v", stream), func(t *testing.T) {
			f := serve(t)
			f.fake.set((*fakeGeneration).endless)
			req, _ := http.NewRequest(http.MethodPost, f.url+chatPath, strings.NewReader(chatBody(fmt.Sprintf(`"stream":%v`, stream))))
			ctx, cancel := contextOf(t)
			defer cancel()
			done := make(chan struct{})
			go func() {
				defer close(done)
				resp, err := httpClient(t).Do(req.WithContext(ctx))
				if err == nil {
					bufio.NewReader(resp.Body).ReadString('\n')
					<-ctx.Done()
					resp.Body.Close()
				}
			}()
			g := f.next(t)
			cancel()
			<-done
			g.wantStop(t, "client")
		})
	}
}

func TestChatChoices(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) { g.answer(fmt.Sprint(g.GetSampling().GetSeed())) })
	_, _, body := f.post(t, chatPath, chatBody(`"n":3,"seed":10`))
	var got chatCompletion
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	for i, c := range got.Choices {
		if want := fmt.Sprint(10 + i); c.Index != i || *c.Message.Content != want {
			t.Errorf("choice %d: %+v", i, c)
		}
	}
	if len(got.Choices) != 3 || got.Usage.PromptTokens != 3 || got.Usage.CompletionTokens != 3 {
		t.Errorf("answer %s", body)
	}
	// One that fails takes the others with it.
	f.fake.set(func(g *fakeGeneration) {
		if g.GetSampling().GetSeed() == 11 {
			g.send(g.number, errorEvent("no_capacity", "", true))
			return
		}
		g.endless()
	})
	for range 3 {
		f.next(t)
	}
	if status, _, body := f.post(t, chatPath, chatBody(`"n":2,"seed":10`)); status != 503 {
		t.Errorf("status %d, %s", status, body)
	}
	for range 2 {
		if g := f.next(t); g.GetSampling().GetSeed() == 10 {
			g.wantStop(t, "client")
		}
	}
}

func TestChatOptionsReachTheCoordinator(t *testing.T) {
	f := serve(t)
	status, _, body := f.post(t, chatPath, `{"model":"tiny","messages":[
			{"role":"developer","content":"be kind"},{"role":"user","name":"ann","content":"hi"},
			{"role":"assistant","content":"yes","refusal":null,"annotations":[],"tool_calls":null}],
		"max_completion_tokens":9,"temperature":0.5,"top_p":0.25,"top_k":3,"min_p":0.5,"repeat_penalty":1.5,"presence_penalty":-2,
		"frequency_penalty":2,"stop":"END","seed":-1,"logprobs":true,"top_logprobs":2,"logit_bias":{"5":-100,"6":1.5},
		"user":"u","metadata":{"a":"b"},"n":1,"stream":false,"response_format":{"type":"text"},"tools":[],"tool_choice":"none","stop_ids":null}`)
	if status != 400 || *parseError(t, body).Error.Param != "stop_ids" {
		// null or not, a member that nobody knows is refused
		t.Fatalf("status %d: %s", status, body)
	}
	status, _, body = f.post(t, chatPath, `{"model":"tiny","messages":[{"role":"developer","content":"be kind"},{"role":"user","name":"ann","content":"hi"}],
		"max_completion_tokens":9,"temperature":0.5,"top_p":0.25,"top_k":3,"min_p":0.5,"repeat_penalty":1.5,"presence_penalty":-2,
		"frequency_penalty":2,"stop":"END","seed":-1,"logprobs":true,"top_logprobs":2,"logit_bias":{"5":-100,"6":1.5},
		"user":"u","metadata":{"a":"b"},"n":1,"stream":false,"response_format":{"type":"text"},"tools":[],"tool_choice":"none"}`)
	if status != 200 {
		t.Fatalf("status %d: %s", status, body)
	}
	got := f.next(t).Generation
	got.Traceparent = ""
	wantSame(t, &pb.Generation{
		Model: "tiny", Tenant: "local", Stop: []string{"END"}, SeedSet: true, MaxTokensClamp: true, SeparateReasoning: true,
		Input: &pb.Generation_Chat{Chat: &pb.Chat{Messages: []*pb.Message{
			{Role: "system", Content: "be kind"}, {Role: "user", Content: "hi", Name: "ann"},
		}}},
		Sampling: &pb.Sampling{
			MaxTokens: 9, Temperature: 0.5, TopP: 0.25, TopK: 3, MinP: 0.5, RepetitionPenalty: 1.5, PresencePenalty: -2,
			FrequencyPenalty: 2, Seed: 1<<64 - 1, Logprobs: true, TopLogprobs: 2,
			Bias: []*pb.LogitBias{{Id: 5, Value: -100}, {Id: 6, Value: 1.5}},
		},
	}, got)
}

func TestChatLogprobs(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		e := tokenEvent(1, "é")
		e.GetToken().Logprob = &pb.LogProb{Logprob: -0.5, Top: []*pb.TopLogProb{{Id: 1, Logprob: -0.5, Text: "é"}, {Id: 2, Logprob: -2, Text: "a"}}}
		g.send(g.number, e, completeEvent("stop", 1, ""))
	})
	_, _, body := f.post(t, chatPath, chatBody(`"logprobs":true,"top_logprobs":2`))
	var got chatCompletion
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := &chatLogprobs{Content: []tokenLogprob{{
		Token: "é", Logprob: -0.5, Bytes: []int{0xc3, 0xa9},
		Top: []topLogprob{{"é", -0.5, []int{0xc3, 0xa9}}, {"a", -2, []int{97}}},
	}}}
	if diff := cmp.Diff(want, got.Choices[0].Logprobs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestModels(t *testing.T) {
	f := serve(t)
	for _, base := range []string{"/v1", ""} {
		status, _, body := f.do(t, "GET", base+"/models", "")
		var list modelList
		if err := json.Unmarshal([]byte(body), &list); err != nil || status != 200 || list.Object != "list" || len(list.Data) != 1 {
			t.Fatalf("status %d, %s", status, body)
		}
		if m := list.Data[0]; m.ID != "tiny" || m.Object != "model" || m.OwnedBy != "shoal" || m.Created == 0 || len(m.Shoal.Stages) != 2 {
			t.Errorf("model %+v", m)
		}
		for _, id := range []string{"tiny", "models/llama-7b"} {
			if status, _, body := f.do(t, "GET", base+"/models/"+id, ""); status != 200 || !strings.Contains(body, `"id":"tiny"`) {
				t.Errorf("%s: status %d, %s", id, status, body)
			}
		}
		for _, id := range []string{"none", strings.Repeat("x", 10_000), "..%2fetc"} {
			if status, _, body := f.do(t, "GET", base+"/models/"+id, ""); status != 404 || parseError(t, body).Error.Code == "" || len(body) > 500 {
				t.Errorf("%.20s: status %d, %s", id, status, body)
			}
		}
	}
}
