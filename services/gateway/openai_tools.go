package gateway

import (
	"encoding/json"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// Limits of what shapes an answer. The schemas themselves are compiled by the
// coordinator, which bounds them further.
const (
	maxTools      = 128
	maxToolCalls  = 128 // of one message
	maxSchemaName = 64
)

// readFormat reads response_format. strict has no effect: every schema is
// enforced.
func readFormat(r *strictjson.Reader) *pb.ResponseFormat {
	o := r.Object("response_format")
	if o == nil {
		return nil
	}
	defer o.Close()
	kind, _ := o.String("type", maxShortText)
	f := &pb.ResponseFormat{Type: kind}
	switch kind {
	case "text":
		return nil
	case "json_object":
	case "json_schema":
		s := o.Object("json_schema")
		if s == nil {
			o.Fail("json_schema", "is missing")
			return nil
		}
		defer s.Close()
		if name, ok := s.String("name", maxSchemaName); !ok || name == "" {
			s.Fail("name", "is missing")
		}
		s.String("description", maxText)
		s.Bool("strict")
		if f.Schema = s.JSON("schema", strictjson.Object); f.Schema == "" {
			s.Fail("schema", "is missing")
		}
	default:
		o.Fail("type", "must be text, json_object or json_schema")
	}
	return f
}

// readTools reads tools and how they may be used.
func readTools(r *strictjson.Reader, g *pb.Generation) {
	for _, o := range r.Objects("tools", maxTools) {
		if kind, _ := o.String("type", maxShortText); kind != "function" {
			o.Fail("type", "must be function")
		}
		readFunction(o)
		o.Close()
	}
	g.Tools = r.Items("tools", maxTools)
	g.ToolChoice = readToolChoice(r)
	if mode := g.ToolChoice.GetMode(); len(g.Tools) == 0 && (mode == "required" || mode == "function") {
		r.Fail("tool_choice", "needs tools")
	}
	if len(g.Tools) == 0 {
		g.ToolChoice = nil
	}
	if parallel, ok := r.Bool("parallel_tool_calls"); ok {
		g.SingleToolCall = !parallel
	}
}

// readFunction checks the definition of a function.
func readFunction(o *strictjson.Reader) {
	f := o.Object("function")
	if f == nil {
		o.Fail("function", "is missing")
		return
	}
	if name, ok := f.String("name", maxSchemaName); !ok || name == "" {
		f.Fail("name", "is missing")
	}
	f.String("description", maxText)
	f.JSON("parameters", strictjson.Object)
	f.Bool("strict")
	f.Close()
}

// readToolChoice reads a mode, or the function that must be called.
func readToolChoice(r *strictjson.Reader) *pb.ToolChoice {
	const member = "tool_choice"
	if r.Kind(member) != strictjson.Object {
		mode, ok := r.String(member, maxShortText)
		if !ok {
			return nil
		}
		if mode != "none" && mode != "auto" && mode != "required" {
			r.Fail(member, "must be none, auto, required or a function")
		}
		return &pb.ToolChoice{Mode: mode}
	}
	o := r.Object(member)
	defer o.Close()
	if kind, _ := o.String("type", maxShortText); kind != "function" {
		o.Fail("type", "must be function")
	}
	f := o.Object("function")
	if f == nil {
		o.Fail("function", "is missing")
		return nil
	}
	defer f.Close()
	name, ok := f.String("name", maxSchemaName)
	if !ok || name == "" {
		f.Fail("name", "is missing")
	}
	return &pb.ToolChoice{Mode: "function", Name: name}
}

// readCalls reads the calls that an assistant made earlier.
func readCalls(r *strictjson.Reader) (calls []*pb.ToolCall) {
	for i, o := range r.Objects("tool_calls", maxToolCalls) {
		c := &pb.ToolCall{Index: uint32(i)}
		c.Id, _ = o.String("id", maxShortText)
		if kind, ok := o.String("type", maxShortText); ok && kind != "function" {
			o.Fail("type", "must be function")
		}
		o.Int("index", 0, maxToolCalls)
		f := o.Object("function")
		if f == nil {
			o.Fail("function", "is missing")
			return nil
		}
		c.Name, _ = f.String("name", maxSchemaName)
		c.Arguments, _ = f.String("arguments", maxText)
		if c.Name == "" {
			f.Fail("name", "is missing")
		}
		if c.Arguments == "" {
			c.Arguments = "{}"
		}
		if !json.Valid([]byte(c.Arguments)) {
			f.Fail("arguments", "must be JSON")
		}
		f.Close()
		o.Close()
		calls = append(calls, c)
	}
	return calls
}

// toolCall is a call as clients read it; Index is there in streams alone.
type toolCall struct {
	Index    *uint32      `json:"index,omitempty"`
	ID       string       `json:"id"`
	Type     string       `json:"type"`
	Function calledMember `json:"function"`
}

type calledMember struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

func toolCallOf(c *pb.ToolCall, streamed bool) toolCall {
	out := toolCall{ID: c.GetId(), Type: "function", Function: calledMember{c.GetName(), c.GetArguments()}}
	if streamed {
		index := c.GetIndex()
		out.Index = &index
	}
	return out
}

// toolCallsOf are the calls that are released with the end of an answer.
func toolCallsOf(list []*pb.ToolCall, streamed bool) (calls []toolCall) {
	for _, c := range list {
		calls = append(calls, toolCallOf(c, streamed))
	}
	return calls
}
