package template

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/ardanlabs/jinja"
)

// roles are the names that count as the template's own text.
var roles = []string{"system", "developer", "user", "assistant", "tool", "function", "ipython"}

// variables returns the names that a template sees, with the text of users
// marked.
func variables(in Input) (map[string]jinja.Value, error) {
	messages := make([]jinja.Value, 0, len(in.Messages))
	for i, m := range in.Messages {
		v, err := m.value()
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
		messages = append(messages, v)
	}
	tools := jinja.None()
	if len(in.Tools) > 0 {
		list := make([]jinja.Value, 0, len(in.Tools))
		for i, raw := range in.Tools {
			v, err := parseJSON(raw)
			if err != nil {
				return nil, fmt.Errorf("tool %d: %w", i, err)
			}
			list = append(list, v)
		}
		tools = jinja.NewList(list)
	}
	return map[string]jinja.Value{
		"messages":              jinja.NewList(messages),
		"tools":                 tools,
		"documents":             jinja.None(),
		"add_generation_prompt": jinja.NewBool(in.AddGenerationPrompt),
		"bos_token":             jinja.NewString(in.BOS),
		"eos_token":             jinja.NewString(in.EOS),
	}, nil
}

// value returns the dictionary that stands for a message.
func (m Message) value() (jinja.Value, error) {
	d := jinja.NewDict()
	role := jinja.NewString(m.Role)
	if !slices.Contains(roles, m.Role) {
		role = jinja.NewString(mark(m.Role))
	}
	d.AsDict().Set("role", role)
	content, err := m.content()
	if err != nil {
		return content, err
	}
	d.AsDict().Set("content", content)
	for _, f := range []struct{ name, text string }{
		{"name", m.Name}, {"reasoning_content", m.Reasoning}, {"tool_call_id", m.ToolCallID},
	} {
		if f.text == "" {
			continue
		}
		v, err := userText(f.text)
		if err != nil {
			return v, err
		}
		d.AsDict().Set(f.name, v)
	}
	if len(m.ToolCalls) > 0 {
		calls, err := toolCalls(m.ToolCalls)
		if err != nil {
			return calls, err
		}
		d.AsDict().Set("tool_calls", calls)
	}
	return d, nil
}

func (m Message) content() (jinja.Value, error) {
	if m.Parts == nil {
		return userText(m.Content)
	}
	parts := make([]jinja.Value, 0, len(m.Parts))
	for _, p := range m.Parts {
		d := jinja.NewDict()
		d.AsDict().Set("type", jinja.NewString(key(p.Type)))
		if p.Type == "text" {
			text, err := userText(p.Text)
			if err != nil {
				return text, err
			}
			d.AsDict().Set("text", text)
		}
		parts = append(parts, d)
	}
	return jinja.NewList(parts), nil
}

func toolCalls(calls []ToolCall) (jinja.Value, error) {
	list := make([]jinja.Value, 0, len(calls))
	for _, c := range calls {
		arguments, err := parseJSON(c.Arguments)
		if err != nil || !arguments.IsDict() {
			if arguments, err = userText(string(c.Arguments)); err != nil {
				return arguments, err
			}
		}
		function := jinja.NewDict()
		function.AsDict().Set("name", jinja.NewString(mark(c.Name)))
		function.AsDict().Set("arguments", arguments)
		d := jinja.NewDict()
		d.AsDict().Set("id", jinja.NewString(mark(c.ID)))
		d.AsDict().Set("type", jinja.NewString("function"))
		d.AsDict().Set("function", function)
		list = append(list, d)
	}
	return jinja.NewList(list), nil
}

// userText returns marked text, if it is not too long.
func userText(s string) (jinja.Value, error) {
	if len(s) > MaxString {
		return jinja.Undefined(), fmt.Errorf("%w: text of %d bytes, at most %d", ErrBudget, len(s), MaxString)
	}
	return jinja.NewString(mark(s)), nil
}

// key returns the key of a dictionary that a user chose. A name is left as it is,
// so that templates find it: no control token looks like one. Other keys are
// marked.
func key(s string) string {
	for _, c := range []byte(s) {
		if !(c == '_' || c == '-' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return mark(s)
		}
	}
	return s
}

// parseJSON reads a user's JSON, whose objects keep their order.
func parseJSON(raw json.RawMessage) (jinja.Value, error) {
	if len(raw) > MaxString {
		return jinja.Undefined(), fmt.Errorf("%w: JSON of %d bytes, at most %d", ErrBudget, len(raw), MaxString)
	}
	if !json.Valid(raw) || !utf8.Valid(raw) {
		return fail("not JSON: %.40q", raw)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return parseValue(dec, 0)
}

func parseValue(dec *json.Decoder, depth int) (jinja.Value, error) {
	if depth > maxNested {
		return jinja.Undefined(), fmt.Errorf("%w: JSON nested more than %d deep", ErrBudget, maxNested)
	}
	t, err := dec.Token()
	if err != nil {
		return fail("JSON: %v", err)
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '[' {
			return parseArray(dec, depth)
		}
		return parseObject(dec, depth)
	case string:
		return jinja.NewString(mark(t)), nil
	default: // nil, bool, json.Number
		return jinja.FromGoValue(t), nil
	}
}

func parseArray(dec *json.Decoder, depth int) (jinja.Value, error) {
	var items []jinja.Value
	for dec.More() {
		v, err := parseValue(dec, depth+1)
		if err != nil {
			return v, err
		}
		items = append(items, v)
	}
	_, err := dec.Token()
	return jinja.NewList(items), err
}

func parseObject(dec *json.Decoder, depth int) (jinja.Value, error) {
	d := jinja.NewDict()
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return d, err
		}
		v, err := parseValue(dec, depth+1)
		if err != nil {
			return v, err
		}
		d.AsDict().Set(key(name.(string)), v)
	}
	_, err := dec.Token()
	return d, err
}
