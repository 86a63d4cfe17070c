package coordinator

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/shoal-llm/shoal/pkg/grammar"
	"github.com/shoal-llm/shoal/pkg/template"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
	"github.com/shoal-llm/shoal/services/coordinator/thought"
	"github.com/shoal-llm/shoal/services/coordinator/toolcall"
)

// Limits of the tools of a request.
const (
	maxTools     = 128
	maxToolName  = 64
	maxToolBytes = 256 << 10 // of all definitions
)

// structure is what a request wants of the form of its answer.
type structure struct {
	grammar []byte            // compiled; empty is none
	tools   []json.RawMessage // definitions, for the template
	calls   *toolcall.Parser  // nil: the answer calls no tools
	thinks  bool              // thoughts are told from the answer
}

// readStructure reads response_format and tools, and compiles what they ask for.
func (p *prepared) readStructure(g *pb.Generation) error {
	if err := p.readTools(g); err != nil {
		return err
	}
	if err := p.format(g.GetResponseFormat()); err != nil {
		return err
	}
	p.thinks = g.GetSeparateReasoning() && len(p.grammar) == 0
	if len(p.grammar) > 0 && p.spec.IgnoreEOS {
		return invalid("ignore_eos", "ignore_eos cannot be combined with a form of the answer that must end.")
	}
	return nil
}

// format compiles what the answer as a whole must be.
func (p *prepared) format(f *pb.ResponseFormat) error {
	const param = "response_format"
	kind := f.GetType()
	if kind == "" || kind == "text" {
		return nil
	}
	if p.calls != nil {
		return invalid(param, "response_format cannot be combined with tools, unless tool_choice is none.")
	}
	switch kind {
	case "json_object":
		p.grammar = grammar.Object().Bytes()
		return nil
	case "json_schema":
		g, err := grammar.Compile([]byte(f.GetSchema()))
		if err != nil {
			return schemaProblem(param, err)
		}
		p.constrain(g)
		return nil
	}
	return invalid(param, "response_format is %s; it must be text, json_object or json_schema.", shorten(kind))
}

// constrain sets the grammar and tells the client what it leaves out.
func (p *prepared) constrain(g *grammar.Grammar) {
	p.grammar = g.Bytes()
	for _, n := range g.Notes() {
		p.note("%s", n)
	}
}

func schemaProblem(param string, err error) error {
	var s *grammar.SchemaError
	if errors.As(err, &s) {
		return invalid(param, "The schema cannot be served: %s %s.", s.Path, s.Reason)
	}
	return invalid(param, "The schema cannot be served: %v.", err)
}

// readTools reads the tools that the answer may call. With tool_choice none the
// model does not hear of them.
func (p *prepared) readTools(g *pb.Generation) error {
	mode, name := g.GetToolChoice().GetMode(), g.GetToolChoice().GetName()
	tools, names, err := parseTools(g.GetTools())
	switch {
	case err != nil:
		return err
	case mode == "none" || len(tools) == 0 && (mode == "" || mode == "auto"):
		return nil
	case len(tools) == 0:
		return invalid("tool_choice", "tool_choice needs tools.")
	}
	p.calls = toolcall.New(names, g.GetSingleToolCall())
	for _, raw := range g.GetTools() {
		p.tools = append(p.tools, json.RawMessage(raw))
	}
	switch mode {
	case "", "auto":
		return nil
	case "required":
	case "function":
		tools = only(tools, name)
		if len(tools) == 0 {
			return invalid("tool_choice", "tool_choice names %s, which is not one of the tools.", shorten(name))
		}
	default:
		return invalid("tool_choice", "tool_choice is %s; it must be none, auto, required or a function.", shorten(mode))
	}
	compiled, err := grammar.Call(tools)
	if err != nil {
		return schemaProblem("tools", err)
	}
	p.constrain(compiled)
	return nil
}

func only(tools []grammar.Tool, name string) []grammar.Tool {
	for _, t := range tools {
		if t.Name == name {
			return []grammar.Tool{t}
		}
	}
	return nil
}

// parseTools reads definitions in OpenAI's shape.
func parseTools(definitions []string) (tools []grammar.Tool, names []string, err error) {
	if len(definitions) > maxTools {
		return nil, nil, invalid("tools", "There are %d tools; at most %d are possible.", len(definitions), maxTools)
	}
	total := 0
	seen := map[string]bool{}
	for i, raw := range definitions {
		var t struct {
			Type     string `json:"type"`
			Function struct {
				Name       string          `json:"name"`
				Parameters json.RawMessage `json:"parameters"`
			} `json:"function"`
		}
		param := fmt.Sprintf("tools[%d]", i)
		if total += len(raw); total > maxToolBytes {
			return nil, nil, invalid("tools", "The tools have more than %d bytes.", maxToolBytes)
		}
		if json.Unmarshal([]byte(raw), &t) != nil || t.Type != "function" {
			return nil, nil, invalid(param, "%s must be of type function, with a function that has a name.", param)
		}
		name := t.Function.Name
		if name == "" || len(name) > maxToolName || strings.Trim(name, toolNameBytes) != "" || seen[name] {
			return nil, nil, invalid(param+".function.name", "The name %s must be one of its own, of at most %d letters, digits, _ and -.", shorten(name), maxToolName)
		}
		seen[name] = true
		names = append(names, name)
		tool := grammar.Tool{Name: name}
		if p := string(t.Function.Parameters); p != "" && p != "null" {
			tool.Parameters = t.Function.Parameters
		}
		tools = append(tools, tool)
	}
	return tools, names, nil
}

const toolNameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."

// turnOf is a turn as templates read it.
func turnOf(m *pb.Message) Message {
	t := Message{Role: m.GetRole(), Content: m.GetContent(), Name: m.GetName(), ToolCallID: m.GetToolCallId(), Reasoning: m.GetReasoning()}
	for _, c := range m.GetToolCalls() {
		t.ToolCalls = append(t.ToolCalls, template.ToolCall{ID: c.GetId(), Name: c.GetName(), Arguments: json.RawMessage(c.GetArguments())})
	}
	return t
}

// tell writes tools and calls into the text of a conversation, for a template
// that has no place for them, in the words of the Hermes format.
func tell(messages []Message, tools []json.RawMessage) []Message {
	out := make([]Message, 0, len(messages)+1)
	for _, m := range messages {
		for _, c := range m.ToolCalls {
			name, _ := json.Marshal(c.Name) // a string can always be written
			m.Content = strings.TrimLeft(m.Content+"\n", "\n") + fmt.Sprintf("<tool_call>\n{\"name\": %s, \"arguments\": %s}\n</tool_call>", name, c.Arguments)
		}
		if m.Role == "tool" {
			m.Content = "<tool_response>\n" + m.Content + "\n</tool_response>"
		}
		m.ToolCalls = nil
		out = append(out, m)
	}
	if len(tools) == 0 {
		return out
	}
	var b strings.Builder
	b.WriteString("You may call these functions:\n<tools>\n")
	for _, t := range tools {
		b.Write(t)
		b.WriteByte('\n')
	}
	b.WriteString("</tools>\nTo call one, answer with\n<tool_call>\n{\"name\": <name>, \"arguments\": <object>}\n</tool_call>")
	if len(out) > 0 && out[0].Role == "system" {
		out[0].Content = b.String() + "\n\n" + out[0].Content
		return out
	}
	return append([]Message{{Role: "system", Content: b.String()}}, out...)
}

// delta is what a token adds to the answer.
func (s *session) delta(text string) *pb.Delta {
	if s.calls == nil {
		return &pb.Delta{Delta: &pb.Delta_Content{Content: text}}
	}
	s.calls.push(text)
	return s.calls.next()
}

// complete is the end of an answer. One that called tools says so.
func (s *session) complete(a generation.Complete) *pb.Complete {
	c := &pb.Complete{
		FinishReason: a.FinishReason, Text: a.Text, StopString: a.StopString,
		Usage: s.usage(), Timings: s.timings(),
	}
	if s.calls != nil {
		c.Text, c.ToolCalls = s.calls.rest(a.Text)
		if s.calls.made > 0 && a.FinishReason == generation.FinishStop {
			c.FinishReason = finishCalls
		}
	}
	return c
}

const finishCalls = "tool_calls"

// follow begins to look for calls, behind what a resumed answer has said.
func (s *session) follow(m *Model) {
	p := s.ready
	if p.calls == nil && !p.thinks {
		return
	}
	s.calls = &calls{parser: p.calls, id: s.id}
	if p.thinks {
		s.calls.thoughts = thought.New(opens(m, p.prompt))
	}
	text := m.Text.Detokenizer()
	for _, id := range p.committed {
		s.calls.skip(text.Push(id))
	}
}

// opens reports whether a prompt ends with the mark of a thought that begins.
func opens(m *Model, prompt []int32) bool {
	const most = 16 // ids that a mark and space behind it have
	text, end := m.Text.Detokenizer(), ""
	for _, id := range prompt[max(0, len(prompt)-most):] {
		end += text.Push(id)
	}
	return thought.Opens(end + text.Flush())
}

// calls follows the calls in one answer, and what was thought before it.
type calls struct {
	thoughts *thought.Splitter // nil: they are text of the answer
	parser   *toolcall.Parser  // nil: it calls no tools
	id       string            // of the generation
	made     uint32
	thinks   string // that a token may bring, before what is in the queue
	queue    []toolcall.Item
}

// push adds text of the answer.
func (c *calls) push(text string) {
	if c.thoughts != nil {
		thinks, says := c.thoughts.Push(text)
		c.thinks += thinks
		text = says
	}
	c.say(text)
}

// say adds text behind thoughts.
func (c *calls) say(text string) {
	switch {
	case c.parser != nil:
		c.queue = append(c.queue, c.parser.Push(text)...)
	case text != "":
		c.queue = append(c.queue, toolcall.Item{Text: text})
	}
}

// skip leaves out the text of a resumed answer: it has left already.
func (c *calls) skip(text string) {
	c.push(text)
	for _, i := range c.queue {
		if i.Call != nil {
			c.made++
		}
	}
	c.queue, c.thinks = nil, ""
}

// next is what a token brings: the oldest text that is decided, or call.
func (c *calls) next() *pb.Delta {
	if thinks := c.thinks; thinks != "" {
		c.thinks = ""
		return &pb.Delta{Delta: &pb.Delta_Reasoning{Reasoning: thinks}}
	}
	var text string
	for len(c.queue) > 0 && c.queue[0].Call == nil {
		text += c.queue[0].Text
		c.queue = c.queue[1:]
	}
	if text != "" || len(c.queue) == 0 {
		return &pb.Delta{Delta: &pb.Delta_Content{Content: text}}
	}
	call := c.queue[0].Call
	c.queue = c.queue[1:]
	return &pb.Delta{Delta: &pb.Delta_ToolCall{ToolCall: c.proto(call)}}
}

// rest is what is left at the end.
func (c *calls) rest(held string) (text string, made []*pb.ToolCall) {
	c.push(held)
	if c.thoughts != nil {
		c.say(c.thoughts.Flush())
	}
	if c.parser != nil {
		c.queue = append(c.queue, c.parser.Flush()...)
	}
	for _, i := range c.queue {
		if i.Call != nil {
			made = append(made, c.proto(i.Call))
		} else {
			text += i.Text
		}
	}
	c.queue = nil
	return text, made
}

func (c *calls) proto(call *toolcall.Call) *pb.ToolCall {
	index := c.made
	c.made++
	return &pb.ToolCall{
		Index: index, Id: fmt.Sprintf("call_%s_%d", strings.TrimPrefix(c.id, "gen-"), index),
		Name: call.Name, Arguments: call.Arguments,
	}
}
