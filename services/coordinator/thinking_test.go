package coordinator

import (
	"strings"
	"testing"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// TestThoughtsComeApart: what is thought before an answer comes as reasoning, for who
// asks for it, token by token; resumed and beside calls of tools too.
func TestThoughtsComeApart(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	ask := func(text string, apart bool, committed int, tools ...string) (thinks, says string, calls int, reason string) {
		g := raw(text, 200) // a toy answers with its prompt
		g.SeparateReasoning, g.Tools = apart, tools
		if committed > 0 {
			ids, _ := toyText{}.Raw(text)
			g.SeedSet, g.Input = true, &pb.Generation_Resumption{Resumption: &pb.Resumption{PromptIds: ids, CommittedIds: ids[:committed]}}
		}
		a := r.relay.ask(many, g)
		for a.terminal == nil {
			switch d := a.event().GetToken().GetDelta(); {
			case d.GetToolCall() != nil:
				calls++
			case d.GetReasoning() != "":
				thinks += d.GetReasoning()
				if a.text != "" {
					t.Errorf("%q: thought after it answered", text)
				}
			}
		}
		c := a.terminal.GetComplete()
		return thinks, a.text, calls + len(c.GetToolCalls()), c.GetFinishReason()
	}
	const text = "<think>\nI must add.\n</think>\n\nThree.$"
	if thinks, says, _, _ := ask(text, true, 0); thinks != "I must add." || says != "Three." {
		t.Errorf("apart: %q and %q", thinks, says)
	}
	if thinks, says, _, _ := ask(text, false, 0); thinks != "" || says != strings.TrimSuffix(text, "$") {
		t.Errorf("unasked: %q and %q", thinks, says)
	}
	if thinks, says, _, _ := ask(text, true, len("<think>\nI must ")); thinks != " add." || says != "Three." { // space was held back
		t.Errorf("resumed: %q and %q", thinks, says)
	}
	if thinks, says, _, _ := ask("so it ends</think>yes$<think>\n", true, 0); thinks != "so it ends" || says != "yes" {
		t.Errorf("with a mark of the template: %q and %q", thinks, says)
	}
	thinks, says, calls, reason := ask(`<think>a</think> {"name":"add","arguments":{"a":1}}$`, true, 0, addTool)
	if thinks != "a" || says != "" || calls != 1 || reason != finishCalls {
		t.Errorf("with a call: %q, %q, %d calls, %s", thinks, says, calls, reason)
	}
	if thinks, says, _, reason := ask("<think>for ever", true, 0); !strings.HasPrefix(thinks, "for ever") || says != "" || reason != "length" {
		t.Errorf("without an end: %q, %q, %s", thinks, says, reason)
	}
}
