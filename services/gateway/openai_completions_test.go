package gateway

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

const completionsPath = "/v1/completions"

// echoPrompt answers with the prompt itself, in one token.
func echoPrompt(g *fakeGeneration) { g.answer("<" + g.GetRaw() + ">") }

func TestCompletionOfManyPrompts(t *testing.T) {
	f := serve(t)
	f.fake.set(echoPrompt)
	status, _, body := f.post(t, completionsPath, `{"model":"tiny","prompt":["a","b"],"n":2,"echo":true,"seed":5,"max_tokens":3}`)
	var got completion
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 {
		t.Fatalf("status %d: %s", status, body)
	}
	var texts []string
	for i, c := range got.Choices {
		texts = append(texts, c.Text)
		if c.Index != i || *c.FinishReason != "stop" || c.Logprobs != nil {
			t.Errorf("choice %d: %+v", i, c)
		}
	}
	if want := []string{"a<a>", "a<a>", "b<b>", "b<b>"}; !slices.Equal(texts, want) {
		t.Errorf("texts %q, want %q", texts, want)
	}
	var usage chatUsage
	if err := json.Unmarshal(got.Usage, &usage); err != nil || usage.PromptTokens != 6 || usage.CompletionTokens != 4 || usage.TotalTokens != 10 {
		t.Errorf("usage %s: %v", got.Usage, err)
	}
	var seeds []uint64
	for range 4 {
		g := f.next(t)
		seeds = append(seeds, g.GetSampling().GetSeed())
		if g.GetSampling().GetMaxTokens() != 3 || !g.GetSeedSet() {
			t.Errorf("the coordinator saw %v", g.Generation)
		}
	}
	slices.Sort(seeds)
	if !slices.Equal(seeds, []uint64{5, 5, 6, 6}) {
		t.Errorf("seeds %v", seeds)
	}
}

func TestCompletionOfIDsWithLogprobs(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		for seq, text := range []string{"né", "!"} {
			e := tokenEvent(uint64(seq+1), text)
			e.GetToken().Logprob = &pb.LogProb{Logprob: -0.5, Top: []*pb.TopLogProb{{Id: 1, Logprob: -0.5, Text: text}}}
			g.send(g.number, e)
		}
		g.send(g.number, completeEvent("length", 2, ""))
	})
	status, _, body := f.post(t, "/completions", `{"model":"tiny","prompt":[[7,8],[9]],"logprobs":1}`)
	var got completion
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 || len(got.Choices) != 2 {
		t.Fatalf("status %d: %s", status, body)
	}
	want := &completionLogprobs{
		Tokens: []string{"né", "!"}, Logprobs: []float32{-0.5, -0.5},
		Top: []map[string]float32{{"né": -0.5}, {"!": -0.5}}, Offsets: []int{0, 2},
	}
	if diff := cmp.Diff(want, got.Choices[0].Logprobs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	g := f.next(t)
	ids := g.GetResumption().GetPromptIds()
	if len(ids) == 0 || !g.GetSeedSet() || g.GetSampling().GetTopLogprobs() != 1 || !g.GetSampling().GetLogprobs() {
		t.Errorf("the coordinator saw %v", g.Generation)
	}
}

func TestCompletionStream(t *testing.T) {
	f := serve(t)
	status, _, body := f.post(t, completionsPath, `{"model":"tiny","prompt":"x","stream":true,"stream_options":{"include_usage":true}}`)
	list := events(t, body)
	if status != 200 || list[len(list)-1] != "[DONE]" {
		t.Fatalf("status %d: %s", status, body)
	}
	text := ""
	for _, data := range list[:len(list)-1] {
		var c completion
		if err := json.Unmarshal([]byte(data), &c); err != nil || c.Object != "text_completion" {
			t.Fatalf("%s: %v", data, err)
		}
		for _, choice := range c.Choices {
			text += choice.Text
		}
	}
	if text != "Hello world" || !strings.Contains(list[len(list)-2], `"completion_tokens":3`) {
		t.Errorf("text %q, last %s", text, list[len(list)-2])
	}
}

func TestCompletionStreamBreaksWithAnError(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		g.send(g.number, tokenEvent(1, "Hel"), errorEvent("shard_lost", "", true))
	})
	_, _, body := f.post(t, completionsPath, `{"model":"tiny","prompt":"x","stream":true}`)
	list := events(t, body)
	if last := list[len(list)-1]; !strings.Contains(last, `"code":"shard_lost"`) {
		t.Errorf("the stream ends with %s", last)
	}
}

func TestCompletionRefusals(t *testing.T) {
	f := serve(t)
	for body, param := range map[string]string{
		`{"model":"tiny"}`:                                             "prompt",
		`{"model":"tiny","prompt":[]}`:                                 "prompt",
		`{"model":"tiny","prompt":[[]]}`:                               "prompt[0]",
		`{"model":"tiny","prompt":[1,-2]}`:                             "prompt[1]",
		`{"model":"tiny","prompt":["a",1]}`:                            "prompt[1]",
		`{"model":"tiny","prompt":"x","suffix":"y"}`:                   "suffix",
		`{"model":"tiny","prompt":"x","best_of":2}`:                    "best_of",
		`{"model":"tiny","prompt":"x","n":9}`:                          "n",
		`{"model":"tiny","prompt":["a","b","c","d","e"],"n":8}`:        "prompt",
		`{"model":"tiny","prompt":"x","echo":true,"logprobs":1}`:       "echo",
		`{"model":"tiny","prompt":[1],"echo":true}`:                    "echo",
		`{"model":"tiny","prompt":"x","logprobs":true}`:                "logprobs",
		`{"model":"tiny","prompt":"x","max_tokens":0}`:                 "max_tokens",
		`{"model":"tiny","prompt":"x","stream_options":{}}`:            "stream_options",
		`{"model":"tiny","prompt":"x","response_format":{"type":"x"}}`: "response_format",
	} {
		status, _, reply := f.post(t, completionsPath, body)
		e := parseError(t, reply)
		if status != 400 || e.Error.Param == nil || *e.Error.Param != param {
			t.Errorf("%s: status %d, %s", body, status, reply)
		}
	}
	f.fake.set(func(g *fakeGeneration) { g.send(g.number, errorEvent("context_length_exceeded", "messages", false)) })
	if _, _, reply := f.post(t, completionsPath, `{"model":"tiny","prompt":"x"}`); *parseError(t, reply).Error.Param != "prompt" {
		t.Errorf("an error about the prompt: %s", reply)
	}
}
