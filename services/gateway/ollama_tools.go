package gateway

import (
	"encoding/json"
	"fmt"
	"slices"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// readOllamaFormat reads format: "json", or a JSON schema.
func readOllamaFormat(r *strictjson.Reader) *pb.ResponseFormat {
	if r.Kind("format") == strictjson.Object {
		return &pb.ResponseFormat{Type: "json_schema", Schema: r.JSON("format", strictjson.Object)}
	}
	switch kind, _ := r.String("format", maxShortText); kind {
	case "":
	case "json":
		return &pb.ResponseFormat{Type: "json_object"}
	default:
		r.Fail("format", "must be json or a JSON schema")
	}
	return nil
}

// ollamaTurns reads a conversation. Ollama's calls have no ids: they get some,
// and results take them in order, by name where they have one.
type ollamaTurns struct {
	chat pb.Chat
	open []*pb.ToolCall // without a result
	made int
}

func (t *ollamaTurns) read(m *strictjson.Reader) {
	out := &pb.Message{}
	out.Role, _ = m.String("role", maxShortText)
	out.Content, _ = m.String("content", maxText)
	name, _ := m.String("tool_name", maxShortText)
	switch out.Role {
	case "system", "user":
		m.Empty("tool_calls")
	case "assistant":
		out.ToolCalls = t.calls(m)
	case "tool":
		m.Empty("tool_calls")
		out.Name, out.ToolCallId = name, t.answered(m, name)
	default:
		m.Fail("role", "must be system, user, assistant or tool")
	}
	if out.Role == "user" {
		if parts := readImages(m, out.Content, fromBase64); len(parts) > 0 {
			out.Content, out.Parts = "", parts
		}
	} else {
		m.Empty("images")
	}
	m.Empty("thinking")
	m.Close()
	t.chat.Messages = append(t.chat.Messages, out)
}

func (t *ollamaTurns) calls(m *strictjson.Reader) (calls []*pb.ToolCall) {
	for i, o := range m.Objects("tool_calls", maxToolCalls) {
		o.String("id", maxShortText)
		f := o.Object("function")
		if f == nil {
			o.Fail("function", "is missing")
			return nil
		}
		c := &pb.ToolCall{Index: uint32(i), Id: fmt.Sprintf("call_%d", t.made)}
		if c.Name, _ = f.String("name", maxSchemaName); c.Name == "" {
			f.Fail("name", "is missing")
		}
		f.Int("index", 0, maxToolCalls)
		c.Arguments = orDefault(f.JSON("arguments", strictjson.Object), "{}")
		f.Close()
		o.Close()
		t.made++
		calls, t.open = append(calls, c), append(t.open, c)
	}
	return calls
}

// answered returns the id of the call that a result belongs to.
func (t *ollamaTurns) answered(m *strictjson.Reader, name string) string {
	i := slices.IndexFunc(t.open, func(c *pb.ToolCall) bool { return name == "" || c.GetName() == name })
	if i < 0 {
		m.Fail("role", "is tool, but no call is without a result")
		return ""
	}
	id := t.open[i].GetId()
	t.open = slices.Delete(t.open, i, i+1)
	return id
}

// ollamaCall is a call as Ollama's clients read it.
type ollamaCall struct {
	Function ollamaFunction `json:"function"`
}

type ollamaFunction struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}

// ollamaCallsOf leaves nil out. Arguments that are no JSON, of an
// answer that was cut, are an empty object: clients cannot read anything else.
func ollamaCallsOf(list ...*pb.ToolCall) (calls []ollamaCall) {
	for _, c := range list {
		if c == nil {
			continue
		}
		arguments := json.RawMessage(c.GetArguments())
		if !json.Valid(arguments) {
			arguments = json.RawMessage("{}")
		}
		calls = append(calls, ollamaCall{ollamaFunction{c.GetName(), arguments}})
	}
	return calls
}
