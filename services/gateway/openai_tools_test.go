package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

const (
	addTool   = `{"type": "function", "function": {"name": "add", "description": "<b>", "parameters": {"type": "object", "z": 1.50, "a": [null, true]}}}`
	toolsBody = `"tools":[` + addTool + `]`
)

// callEvent is a token that completes a call.
func callEvent(seq uint64, index uint32) *pb.Event {
	call := &pb.ToolCall{Index: index, Id: "call_1", Name: "add", Arguments: `{"a": 1}`}
	return &pb.Event{Event: &pb.Event_Token{Token: &pb.Token{Seq: seq, Delta: &pb.Delta{Delta: &pb.Delta_ToolCall{ToolCall: call}}}}}
}

func callsComplete(n int, calls ...*pb.ToolCall) *pb.Event {
	e := completeEvent("tool_calls", n, "")
	e.GetComplete().ToolCalls = calls
	return e
}

func TestToolCallsWhole(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		g.send(g.number, callEvent(1, 0), callsComplete(1, &pb.ToolCall{Index: 1, Id: "call_2", Name: "add", Arguments: "{}"}))
	})
	_, _, body := f.post(t, chatPath, chatBody(toolsBody+`,"tool_choice":"auto","parallel_tool_calls":false`))
	var got struct {
		Choices []struct {
			Message      json.RawMessage
			FinishReason string `json:"finish_reason"`
		}
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := `{"role":"assistant","content":null,"refusal":null,"tool_calls":[` +
		`{"id":"call_1","type":"function","function":{"name":"add","arguments":"{\"a\": 1}"}},` +
		`{"id":"call_2","type":"function","function":{"name":"add","arguments":"{}"}}]}`
	if c := got.Choices[0]; string(c.Message) != want || c.FinishReason != "tool_calls" {
		t.Errorf("choice %s, %s", c.Message, c.FinishReason)
	}
	g := f.next(t)
	if len(g.GetTools()) != 1 || g.GetTools()[0] != addTool || g.GetToolChoice().GetMode() != "auto" || !g.GetSingleToolCall() {
		t.Errorf("the coordinator saw %v", g.Generation)
	}
}

func TestToolCallsStream(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		g.send(g.number, tokenEvent(1, "Well"), callEvent(2, 0), callsComplete(2, &pb.ToolCall{Index: 1, Id: "call_2", Name: "add", Arguments: "{}"}))
	})
	_, _, body := f.post(t, chatPath, chatBody(toolsBody+`,"stream":true,"tool_choice":{"type":"function","function":{"name":"add"}}`))
	var deltas []string
	for _, data := range events(t, body) {
		var c struct {
			Choices []struct{ Delta json.RawMessage }
		}
		if json.Unmarshal([]byte(data), &c) == nil && len(c.Choices) > 0 {
			deltas = append(deltas, string(c.Choices[0].Delta))
		}
	}
	want := []string{
		`{"role":"assistant","content":""}`, `{"content":"Well"}`,
		`{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"add","arguments":"{\"a\": 1}"}}]}`,
		`{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"add","arguments":"{}"}}]}`, `{}`,
	}
	if strings.Join(deltas, "\n") != strings.Join(want, "\n") || !strings.Contains(body, `"finish_reason":"tool_calls"`) {
		t.Errorf("deltas:\n%s", strings.Join(deltas, "\n"))
	}
	if c := f.next(t).GetToolChoice(); c.GetMode() != "function" || c.GetName() != "add" {
		t.Errorf("the coordinator saw %v", c)
	}
}

func TestFormatsAndEarlierCallsReachTheCoordinator(t *testing.T) {
	f := serve(t)
	status, _, body := f.post(t, chatPath, `{"model":"tiny","messages":[{"role":"user","content":"x"},
		{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"add","arguments":"{\"a\":1}"}}]},
		{"role":"tool","tool_call_id":"c1","content":"2"}],
		"response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":{"type":"object","b":1,"a":2}}}}`)
	if status != 200 {
		t.Fatalf("status %d: %s", status, body)
	}
	g := f.next(t)
	if got := g.GetResponseFormat(); got.GetType() != "json_schema" || got.GetSchema() != `{"type": "object", "b": 1, "a": 2}` {
		t.Errorf("format %v", got)
	}
	m := g.GetChat().GetMessages()
	call := m[1].GetToolCalls()[0]
	if call.GetId() != "c1" || call.GetName() != "add" || call.GetArguments() != `{"a":1}` || m[2].GetRole() != "tool" || m[2].GetToolCallId() != "c1" {
		t.Errorf("messages %v", m)
	}
}

func TestToolRequestsAreRefusedByName(t *testing.T) {
	f := serve(t)
	for more, param := range map[string]string{
		`"tool_choice":{"type":"function","function":{"name":"add"}}`:            "tool_choice",
		`"tools":[{"type":"function","function":{}}]`:                            "tools[0].function.name",
		`"tools":[{"type":"function","function":{"name":"f","parameters":"x"}}]`: "tools[0].function.parameters",
		`"tools":[{"type":"function","function":{"name":"f","sparkle":1}}]`:      "tools[0].function.sparkle",
		toolsBody + `,"tool_choice":"sometimes"`:                                 "tool_choice",
		toolsBody + `,"tool_choice":{"type":"function"}`:                         "tool_choice.function",
		`"response_format":{"type":"json_schema"}`:                               "response_format.json_schema",
	} {
		status, _, body := f.post(t, chatPath, chatBody(more))
		e := parseError(t, body)
		if status != 400 || e.Error.Param == nil || *e.Error.Param != param {
			t.Errorf("%s: status %d, %s", more, status, body)
		}
	}
}
