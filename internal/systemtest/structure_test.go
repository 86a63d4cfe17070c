package systemtest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestStructuredAnswers asks a running program for JSON by a schema and for a
// call of a tool, at temperature 1.
func TestStructuredAnswers(t *testing.T) {
	ctx := within(t, 4*hang)
	u := startUp(ctx, t, nil, "--listen=127.0.0.1:0")
	schema := object{
		"type": "object", "additionalProperties": false, "required": []string{"city", "people"},
		"properties": object{"city": object{"type": "string", "maxLength": 20}, "people": object{"type": "integer", "minimum": 1, "maximum": 500}},
	}
	ask := func(seed int, more object) (completion, error) {
		body := chat(prompts[0], more)
		body["temperature"], body["seed"], body["max_tokens"] = 1, seed, 96
		return u.complete(ctx, body)
	}
	format := object{"response_format": object{"type": "json_schema", "json_schema": object{"name": "place", "schema": schema}}}
	eventually(ctx, t, "no answer by the schema", func() error { // the model may be loading
		_, err := ask(0, format)
		return err
	})
	for seed := range 6 {
		done, err := ask(seed, format)
		if err != nil {
			t.Fatal(err)
		}
		var place struct {
			City   *string
			People *int
		}
		d := json.NewDecoder(strings.NewReader(done.Choices[0].Message.Content))
		d.DisallowUnknownFields()
		if err := d.Decode(&place); err != nil || place.City == nil || place.People == nil || *place.People < 1 || *place.People > 500 || done.Choices[0].FinishReason != "stop" {
			t.Errorf("seed %d: %+v: %v", seed, done, err)
		}
	}
	done, err := ask(1, object{
		"tool_choice": "required",
		"tools":       []object{{"type": "function", "function": object{"name": "count", "parameters": schema}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	calls := done.Choices[0].Message.ToolCalls
	if len(calls) != 1 || calls[0].Function.Name != "count" || !json.Valid([]byte(calls[0].Function.Arguments)) || done.Choices[0].FinishReason != "tool_calls" {
		t.Errorf("answer %+v", done)
	}
	_, err = ask(1, object{"response_format": object{"type": "json_schema", "json_schema": object{"name": "x", "schema": object{"$ref": "#"}}}})
	if err == nil || !strings.Contains(fmt.Sprint(err), "400") || !strings.Contains(fmt.Sprint(err), "without end") {
		t.Errorf("a schema without end: %v", err)
	}
}
