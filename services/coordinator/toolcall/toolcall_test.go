package toolcall_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

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
