package coordinator

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/grammar"
	"github.com/shoal-llm/shoal/pkg/template"
	"github.com/shoal-llm/shoal/pkg/token"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

const addTool = `{"type":"function","function":{"name":"add","description":"adds","parameters":{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}}}`

// TestCallsAreTakenOutOfTheAnswer lets the toy pipeline, which repeats its
// prompt, call a tool.
func TestCallsAreTakenOutOfTheAnswer(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	for _, c := range []struct {
		said, text, call, reason string
		choice                   *pb.ToolChoice
		constrained              bool
	}{
		{`so <tool_call>{"name":"add","arguments":{"a":1}}</tool_call>$`, "so ", `add {"a":1}`, "tool_calls", nil, false},
		{`{"name": "add", "arguments": {"a": 2}}$`, "", `add {"a": 2}`, "tool_calls", &pb.ToolChoice{Mode: "required"}, true},
		{`{"name": "add", "arguments": {"a": 3}}$`, "", `add {"a": 3}`, "tool_calls", &pb.ToolChoice{Mode: "function", Name: "add"}, true},
		{`no <tool$`, "no <tool", "", "stop", nil, false},
		{`<tool_call>{"name":"add"}</tool_call>$`, `<tool_call>{"name":"add"}</tool_call>`, "", "stop", &pb.ToolChoice{Mode: "none"}, false},
	} {
		g := raw(c.said, 100)
		g.Tools, g.ToolChoice = []string{addTool}, c.choice
		a := r.relay.ask(100, g)
		end := a.finish().GetComplete()
		var said []string
		for _, call := range append(a.calls, end.GetToolCalls()...) {
			said = append(said, call.Name+" "+call.Arguments)
			if call.Id == "" || call.Index != 0 {
				t.Errorf("%s: call %v", c.said, call)
			}
		}
		if text := a.text; text != c.text || strings.Join(said, ";") != c.call || end.GetFinishReason() != c.reason {
			t.Errorf("%s: text %q, calls %q, %v", c.said, text, said, a.terminal)
		}
		opened := r.wires.opened[len(r.wires.opened)-1].Open
		if (len(opened.Grammar) > 0) != c.constrained {
			t.Errorf("%s: a grammar of %d bytes", c.said, len(opened.Grammar))
		}
	}
}

func TestStructureIsRefusedByName(t *testing.T) {
	for _, c := range []struct {
		spoil func(*pb.Generation)
		param string
	}{
		{func(g *pb.Generation) {
			g.ResponseFormat = &pb.ResponseFormat{Type: "json_schema", Schema: `{"type":"x"}`}
		}, "response_format"},
		{func(g *pb.Generation) { g.ResponseFormat = &pb.ResponseFormat{Type: "xml"} }, "response_format"},
		{func(g *pb.Generation) {
			g.ResponseFormat, g.Tools = &pb.ResponseFormat{Type: "json_object"}, []string{addTool}
		}, "response_format"},
		{func(g *pb.Generation) {
			g.ResponseFormat, g.Sampling = &pb.ResponseFormat{Type: "json_object"}, &pb.Sampling{IgnoreEos: true}
		}, "ignore_eos"},
		{func(g *pb.Generation) { g.Tools = []string{`{"type":"retrieval"}`} }, "tools[0]"},
		{func(g *pb.Generation) { g.Tools = []string{addTool, addTool} }, "tools[1].function.name"},
		{func(g *pb.Generation) { g.Tools = []string{`{"type":"function","function":{"name":"a b"}}`} }, "tools[0].function.name"},
		{func(g *pb.Generation) { g.Tools = make([]string, maxTools+1) }, "tools"},
		{func(g *pb.Generation) { g.ToolChoice = &pb.ToolChoice{Mode: "required"} }, "tool_choice"},
		{func(g *pb.Generation) {
			g.Tools, g.ToolChoice = []string{addTool}, &pb.ToolChoice{Mode: "function", Name: "sub"}
		}, "tool_choice"},
		{func(g *pb.Generation) {
			g.Tools = []string{strings.Replace(addTool, `"integer"`, `"int"`, 1)}
			g.ToolChoice = &pb.ToolChoice{Mode: "required"}
		}, "tools"},
	} {
		g := raw("x", 4)
		c.spoil(g)
		m := toyModel()
		_, err := m.prepare(g, 200)
		p, ok := err.(*problem)
		if !ok || p.Param != c.param || p.Retryable {
			t.Errorf("want %s: %v", c.param, err)
		}
	}
}

func TestSchemasAreCompiled(t *testing.T) {
	g := raw("x", 4)
	g.ResponseFormat = &pb.ResponseFormat{Type: "json_schema", Schema: `{"type":"string","format":"date"}`}
	m := toyModel()
	p, err := m.prepare(g, 200)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := grammar.Parse(p.grammar); err != nil || len(p.notes) != 1 {
		t.Errorf("%v, notes %q", err, p.notes)
	}
}

// TestToolsReachThePrompt renders tools, calls and results, with a template that
// knows nothing of them.
func TestToolsReachThePrompt(t *testing.T) {
	lib, err := library.Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	defer lib.Close()
	vocab, err := lib.Vocab()
	if err != nil {
		t.Fatal(err)
	}
	turns := []Message{
		{Role: "user", Content: "one and two?"},
		{Role: "assistant", ToolCalls: []template.ToolCall{{ID: "c1", Name: "add", Arguments: json.RawMessage(`{"a": 1}`)}}},
		{Role: "tool", Content: "three", ToolCallID: "c1"},
	}
	for name, source := range map[string]string{
		"plain":  `{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}`,
		"hermes": `{% if tools %}{% for t in tools %}{{ t.function.name }}: {{ t | tojson }}{% endfor %}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}`,
	} {
		compiled, err := template.Compile(source)
		if err != nil {
			t.Fatal(err)
		}
		words := newText(vocab, compiled, token.None)
		if words.tells != (name == "plain") {
			t.Errorf("%s: tells is %v", name, words.tells)
		}
		ids, err := words.Chat(turns, []json.RawMessage{json.RawMessage(addTool)})
		if err != nil {
			t.Fatal(err)
		}
		text := vocab.Decode(ids)
		for _, part := range []string{`"description"`, "one and two?", `{"a": 1}`, "three", "add"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s: the prompt lacks %s: %s", name, part, text)
			}
		}
	}
}
