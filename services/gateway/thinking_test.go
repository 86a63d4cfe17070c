package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// thinking answers with a thought of two tokens and an answer of one.
func thinking(g *fakeGeneration) {
	thought := func(seq uint64, text string) *pb.Event {
		e := tokenEvent(seq, "")
		e.GetToken().Delta = &pb.Delta{Delta: &pb.Delta_Reasoning{Reasoning: text}}
		return e
	}
	g.send(g.number, &pb.Event{Event: &pb.Event_Accepted{Accepted: &pb.Accepted{Id: "s"}}},
		thought(1, "I must "), thought(2, "add."), tokenEvent(3, "Three."), completeEvent("stop", 3, ""))
}

// TestThoughtsInTheOpenAIAPI: what a model thinks is reasoning_content, whole and
// streamed, and may come back in an assistant's turn.
func TestThoughtsInTheOpenAIAPI(t *testing.T) {
	f := serve(t)
	f.fake.set(thinking)
	body := `{"model":"tiny","messages":[{"role":"user","content":"1+2"},{"role":"assistant","content":"3","reasoning_content":"one more"},{"role":"user","content":"sure?"}]`
	status, _, answer := f.post(t, chatPath, body+`}`)
	var whole chatCompletion
	if err := json.Unmarshal([]byte(answer), &whole); status != 200 || err != nil || len(whole.Choices) != 1 {
		t.Fatalf("status %d: %s", status, answer)
	}
	if m := whole.Choices[0].Message; m.Reasoning != "I must add." || m.Content == nil || *m.Content != "Three." {
		t.Errorf("whole: %s", answer)
	}
	g := f.next(t)
	if m := g.GetChat().GetMessages()[1]; !g.GetSeparateReasoning() || m.GetReasoning() != "one more" || m.GetContent() != "3" {
		t.Errorf("the coordinator saw %v", g.Generation)
	}
	_, _, stream := f.post(t, chatPath, body+`,"stream":true}`)
	var thinks, says strings.Builder
	for line := range strings.Lines(stream) {
		var c chatChunk
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok || json.Unmarshal([]byte(data), &c) != nil || len(c.Choices) == 0 {
			continue
		}
		thinks.WriteString(c.Choices[0].Delta.Reasoning)
		if text := c.Choices[0].Delta.Content; text != nil {
			says.WriteString(*text)
		}
	}
	if thinks.String() != "I must add." || says.String() != "Three." {
		t.Errorf("streamed: %q and %q: %s", thinks.String(), says.String(), stream)
	}
	if status, _, _ := f.post(t, chatPath, `{"messages":[{"role":"user","content":"a","reasoning_content":"b"}]}`); status != 400 {
		t.Errorf("a user's thoughts: status %d", status)
	}
}
