package toolcall_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/services/coordinator/toolcall"
)

// TestScripts runs the scripts of testdata.
func TestScripts(t *testing.T) {
	b, err := os.ReadFile("testdata/calls.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range strings.Split(string(b), "\n\n") {
		steps, want, _ := strings.Cut(script, "----\n")
		if got := play(steps); got != strings.TrimSpace(want) {
			t.Errorf("%s----\n%s", steps, got)
		}
	}
}

// play performs a script's steps and renders what comes out.
func play(steps string) string {
	var tools []string
	var p *toolcall.Parser
	single := false
	var out []string
	for _, line := range strings.Split(strings.TrimSpace(steps), "\n") {
		verb, rest, _ := strings.Cut(line, " ")
		switch verb {
		case "tools":
			tools = strings.Split(rest, ",")
		case "single":
			single = true
		case "push", "flush":
			if p == nil {
				p = toolcall.New(tools, single)
			}
			items := p.Flush
			if verb == "push" {
				items = func() []toolcall.Item { return p.Push(strings.ReplaceAll(rest, `\n`, "\n")) }
			}
			out = append(out, render(items())...)
		}
	}
	return strings.Join(out, "\n")
}

func render(items []toolcall.Item) (lines []string) {
	for _, i := range items {
		if i.Call != nil {
			lines = append(lines, i.Call.Name+" "+i.Call.Arguments)
		} else {
			lines = append(lines, fmt.Sprintf("%q", i.Text))
		}
	}
	return lines
}

// FuzzCuts checks that it does not matter how the text is cut.
func FuzzCuts(f *testing.F) {
	f.Add(`a<tool_call>{"name":"add","arguments":{"x":"</tool_call>"}}</tool_call> b`, 3)
	f.Add(`{"name":"add","arguments":{}}{"name":"add"}<tool_call>`, 1)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		if cut < 1 || len(text) > 1<<16 {
			return
		}
		whole, pieces := toolcall.New([]string{"add"}, false), toolcall.New([]string{"add"}, false)
		want := joined(append(whole.Push(text), whole.Flush()...))
		var items []toolcall.Item
		for rest := text; rest != ""; {
			n := min(cut, len(rest))
			items = append(items, pieces.Push(rest[:n])...)
			rest = rest[n:]
		}
		if got := joined(append(items, pieces.Flush()...)); got != want {
			t.Errorf("whole %q, in pieces %q", want, got)
		}
	})
}

// joined renders items with neighbouring text in one piece.
func joined(items []toolcall.Item) string {
	var b strings.Builder
	for _, i := range items {
		if i.Call != nil {
			fmt.Fprintf(&b, "\x00%s(%s)\x00", i.Call.Name, i.Call.Arguments)
		} else {
			b.WriteString(i.Text)
		}
	}
	return b.String()
}

// TestFixtureTemplatesAndCalls: what templates write for an assistant's calls is read as
// those calls, with the control tokens before it shown or hidden.
func TestFixtureTemplatesAndCalls(t *testing.T) {
	if _, err := os.Stat(filepath.Join(golden.Dir(t), "chat_templates")); err != nil {
		t.Skip("this set of reference data has no chat_templates")
	}
	var g struct {
		Cases []struct {
			Template, Conversation, Expected string
		}
	}
	golden.JSON(t, filepath.Join("chat_templates", "cases.json"), &g)
	found := 0
	for _, c := range g.Cases {
		for family, marks := range map[string][2]string{
			"meta-llama-Llama-3": {"assistant<|end_header_id|>\n\n", "<|eot_id|>"},
			"Qwen-Qwen":          {"<|im_start|>assistant\n", "<|im_end|>"},
			"NousResearch":       {"<|im_start|>assistant\n", "<|im_end|>"},
			"mistralai-Mistral":  {"[/INST]", "</s>"},
		} {
			if c.Conversation != "tool_result" || !strings.HasPrefix(c.Template, "templates/"+family) {
				continue
			}
			_, said, ok := strings.Cut(c.Expected, marks[0])
			said, _, _ = strings.Cut(said, marks[1])
			if !ok {
				t.Errorf("%s: no assistant speaks", c.Template)
			}
			found++
			for _, text := range []string{said, strings.TrimPrefix(said, "[TOOL_CALLS]")} {
				p := toolcall.New([]string{"get_weather"}, false)
				got := strings.Join(render(append(p.Push(text), p.Flush()...)), "\n")
				if got != `get_weather {"city": "Oslo"}` {
					t.Errorf("%s: %q is read as %s", c.Template, text, got)
				}
			}
		}
	}
	if found < 6 {
		t.Errorf("%d cases", found)
	}
}

// TestCutsDoNotMatter: a text comes out alike however it is cut.
func TestCutsDoNotMatter(t *testing.T) {
	for _, text := range []string{
		`[TOOL_CALLS] [{"name": "add", "arguments": {"a": "]"}}]`, `add[ARGS]{"a": 1}now{}`, `addition is simple`,
		`<|python_tag|>{"name":"add","parameters":{}}; {"name":"now","parameters":{}} done`, `<function=add>{"a": 1}</function> and`,
		`[1, 2] are numbers`, `[{"a": 1}] is a list`, "say <tool_call>{\"name\":\"now\"}</tool_call>\n<tool_call>no</tool_call>", `<|python_tag|>x`, `[TOOL_CALLS]?`,
	} {
		whole := func(pieces []string) string {
			p := toolcall.New([]string{"add", "now"}, false)
			var items []toolcall.Item
			for _, piece := range pieces {
				items = append(items, p.Push(piece)...)
			}
			var out strings.Builder
			for _, i := range append(items, p.Flush()...) {
				out.WriteString(i.Text)
				if i.Call != nil {
					fmt.Fprintf(&out, "«%s %s»", i.Call.Name, i.Call.Arguments)
				}
			}
			return out.String()
		}
		want := whole([]string{text})
		for cut := 1; cut < len(text); cut++ {
			if got := whole([]string{text[:cut], text[cut:]}); got != want {
				t.Errorf("%q cut at %d: %q, want %q", text, cut, got, want)
			}
		}
		if got := whole(strings.Split(text, "")); got != want {
			t.Errorf("%q in letters: %q, want %q", text, got, want)
		}
	}
}
