package template_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/template"
	"github.com/shoal-llm/shoal/pkg/token"
)

// referenceCases is the layout of chat_templates/cases.json.
type referenceCases struct {
	Conversations map[string]struct {
		Messages []struct {
			Role       string
			Content    string
			Name       string
			ToolCallID string `json:"tool_call_id"`
			ToolCalls  []struct {
				ID       string
				Function struct {
					Name      string
					Arguments json.RawMessage
				}
			} `json:"tool_calls"`
		}
		Tools []json.RawMessage
	}
	Cases []struct {
		Template            string
		Conversation        string
		AddGenerationPrompt bool   `json:"add_generation_prompt"`
		BOS                 string `json:"bos_token"`
		EOS                 string `json:"eos_token"`
		Expected            *string
		ExpectedError       string `json:"expected_error"`
		ErrorFromTemplate   bool   `json:"error_from_template"`
	}
}

// The templates of the vendors are not part of the repository; they are checked
// where a set of reference data has them.
func TestFixtureTemplates(t *testing.T) {
	dir := filepath.Join(golden.Dir(t), "chat_templates")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("this set of reference data has no chat_templates")
	}
	var f referenceCases
	golden.JSON(t, filepath.Join("chat_templates", "cases.json"), &f)
	agree := 0
	for i, c := range f.Cases {
		source, err := os.ReadFile(filepath.Join(dir, c.Template))
		if err != nil {
			t.Fatal(err)
		}
		in := template.Input{
			AddGenerationPrompt: c.AddGenerationPrompt, BOS: c.BOS, EOS: c.EOS,
			Tools: f.Conversations[c.Conversation].Tools, Now: time.Date(2025, 3, 14, 9, 26, 53, 0, time.UTC),
		}
		for _, m := range f.Conversations[c.Conversation].Messages {
			message := template.Message{Role: m.Role, Content: m.Content, Name: m.Name, ToolCallID: m.ToolCallID}
			for _, call := range m.ToolCalls {
				message.ToolCalls = append(message.ToolCalls, template.ToolCall{
					ID: call.ID, Name: call.Function.Name, Arguments: call.Function.Arguments,
				})
			}
			in.Messages = append(in.Messages, message)
		}
		segments, err := renderSource(string(source), in)
		var raised *template.RaisedError
		switch {
		case c.Expected != nil && err != nil:
			t.Errorf("case %d, %s, %s: %v", i, c.Template, c.Conversation, err)
		case c.Expected != nil && joined(segments) != *c.Expected:
			t.Errorf("case %d, %s, %s:\n got %q\nwant %q", i, c.Template, c.Conversation, joined(segments), *c.Expected)
		case c.Expected == nil && err == nil:
			t.Errorf("case %d, %s, %s: no error, want %s", i, c.Template, c.Conversation, c.ExpectedError)
		case c.ErrorFromTemplate && (!errors.As(err, &raised) || !strings.HasSuffix(c.ExpectedError, raised.Message)):
			t.Errorf("case %d, %s, %s: error %v, want %s", i, c.Template, c.Conversation, err, c.ExpectedError)
		default:
			agree++
		}
	}
	t.Logf("%d of %d cases agree", agree, len(f.Cases))
}

func renderSource(source string, in template.Input) ([]token.Segment, error) {
	tmpl, err := template.Compile(source)
	if err != nil {
		return nil, err
	}
	return tmpl.Render(in)
}

func joined(segments []token.Segment) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteString(s.Text)
	}
	return b.String()
}
