package gateway

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/shoal-llm/shoal/pkg/sample"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// checkGeneration holds a generation that came as protobuf to the bounds that
// the JSON doors have, and names the field that breaks them.
func checkGeneration(g *pb.Generation, messages int) *problem {
	bad := func(param, why string) *problem {
		return &problem{code: codeInvalid, param: param, message: param + " " + why + "."}
	}
	switch in := g.GetInput().(type) {
	case *pb.Generation_Chat:
		if p := checkChat(in.Chat, messages, bad); p != nil {
			return p
		}
	case *pb.Generation_Prompt:
	case *pb.Generation_Raw:
		if in.Raw == "" {
			return bad("raw", "must not be empty")
		}
	case *pb.Generation_Resumption:
		return &problem{code: codeUnsupported, param: "resumption", message: "resumption is not open to clients."}
	default:
		return bad("input", "is missing: give chat, prompt or raw")
	}
	if len(g.GetModel()) > maxModelName {
		return noSuchModel(g.GetModel(), "model")
	}
	if len(g.GetStop()) > maxStops {
		return bad("stop", fmt.Sprintf("has more than %d strings", maxStops))
	}
	for i, s := range g.GetStop() {
		if s == "" || len(s) > maxStopBytes {
			return bad(fmt.Sprintf("stop[%d]", i), fmt.Sprintf("must have 1 to %d bytes", maxStopBytes))
		}
	}
	if len(g.GetPrecision()) > maxShortText {
		return bad("precision", fmt.Sprintf("is longer than %d bytes", maxShortText))
	}
	for component, p := range g.GetLayerPrecisions() {
		if !slices.Contains(components, component) || len(p) > maxShortText {
			return bad("layer_precisions", "names precisions of "+strings.Join(components, ", "))
		}
	}
	if g.GetDeadlineMs() < 0 {
		return bad("deadline_ms", "must not be negative")
	}
	if p := checkStructure(g, bad); p != nil {
		return p
	}
	return checkSampling(g.GetSampling(), bad)
}

// checkStructure holds the form of an answer and its tools to what the OpenAI
// API allows. Schemas and definitions are the coordinator's to compile.
func checkStructure(g *pb.Generation, bad func(param, why string) *problem) *problem {
	f := g.GetResponseFormat()
	switch kind := f.GetType(); {
	case f != nil && !slices.Contains([]string{"text", "json_object", "json_schema"}, kind):
		return bad("response_format.type", "must be text, json_object or json_schema")
	case kind == "json_schema" && f.GetSchema() == "":
		return bad("response_format.schema", "is missing")
	case kind != "json_schema" && f.GetSchema() != "":
		return bad("response_format.schema", "needs the type json_schema")
	}
	if len(g.GetTools()) > maxTools {
		return bad("tools", fmt.Sprintf("has more than %d definitions", maxTools))
	}
	for i, tool := range g.GetTools() {
		if !json.Valid([]byte(tool)) {
			return bad(fmt.Sprintf("tools[%d]", i), "must be JSON")
		}
	}
	c := g.GetToolChoice()
	switch mode := c.GetMode(); {
	case c != nil && !slices.Contains([]string{"none", "auto", "required", "function"}, mode):
		return bad("tool_choice.mode", "must be none, auto, required or function")
	case (mode == "required" || mode == "function") && len(g.GetTools()) == 0:
		return bad("tool_choice", "needs tools")
	case (mode == "function") != (c.GetName() != ""):
		return bad("tool_choice.name", "goes with the mode function, and with no other")
	}
	return nil
}

func checkChat(c *pb.Chat, messages int, bad func(param, why string) *problem) *problem {
	if n := len(c.GetMessages()); n == 0 || n > messages {
		return bad("chat.messages", fmt.Sprintf("must hold 1 to %d messages", messages))
	}
	for i, m := range c.GetMessages() {
		if !slices.Contains([]string{"system", "user", "assistant", "tool"}, m.GetRole()) {
			return bad(fmt.Sprintf("chat.messages[%d].role", i), "must be system, user, assistant or tool")
		}
		if p := checkParts(m, fmt.Sprintf("chat.messages[%d]", i), bad); p != nil {
			return p
		}
		if p := checkCalls(m, fmt.Sprintf("chat.messages[%d]", i), bad); p != nil {
			return p
		}
	}
	return nil
}

// checkCalls checks what a turn says of tool calls: an assistant made them, and a
// tool's turn is the result of one.
func checkCalls(m *pb.Message, at string, bad func(param, why string) *problem) *problem {
	switch n := len(m.GetToolCalls()); {
	case n > maxToolCalls:
		return bad(at+".tool_calls", fmt.Sprintf("has more than %d calls", maxToolCalls))
	case n > 0 && m.GetRole() != "assistant":
		return bad(at+".tool_calls", "are for the role assistant alone")
	case (m.GetRole() == "tool") != (m.GetToolCallId() != ""):
		return bad(at+".tool_call_id", "goes with the role tool, and with no other: it says whose result this is")
	}
	for i, c := range m.GetToolCalls() {
		if c.GetName() == "" || len(c.GetName()) > maxSchemaName {
			return bad(fmt.Sprintf("%s.tool_calls[%d].name", at, i), fmt.Sprintf("must have 1 to %d bytes", maxSchemaName))
		}
		if !json.Valid([]byte(c.GetArguments())) {
			return bad(fmt.Sprintf("%s.tool_calls[%d].arguments", at, i), "must be JSON")
		}
	}
	return nil
}

// checkSampling refuses what is out of range. NaN is in no range.
func checkSampling(s *pb.Sampling, bad func(param, why string) *problem) *problem {
	ranges := []struct {
		name   string
		value  float32
		lo, hi float64
	}{
		{"temperature", s.GetTemperature(), 0, sample.MaxTemperature},
		{"top_p", s.GetTopP(), 0, 1},
		{"min_p", s.GetMinP(), 0, 1},
		{"repetition_penalty", s.GetRepetitionPenalty(), 0, maxRepeat},
		{"presence_penalty", s.GetPresencePenalty(), -maxPenalty, maxPenalty},
		{"frequency_penalty", s.GetFrequencyPenalty(), -maxPenalty, maxPenalty},
		{"top_k", float32(s.GetTopK()), 0, maxTopK},
		{"penalty_window", float32(s.GetPenaltyWindow()), 0, math.MaxInt32},
		{"top_logprobs", float32(s.GetTopLogprobs()), 0, sample.MaxTopLogProbs},
		{"max_tokens", float32(s.GetMaxTokens()), 0, math.MaxInt32},
	}
	for _, r := range ranges {
		if v := float64(r.value); !(v >= r.lo && v <= r.hi) {
			return bad("sampling."+r.name, fmt.Sprintf("must be from %v to %v", r.lo, r.hi))
		}
	}
	if len(s.GetBias()) > sample.MaxBias {
		return bad("sampling.bias", fmt.Sprintf("has more than %d entries", sample.MaxBias))
	}
	for i, b := range s.GetBias() {
		if v := float64(b.GetValue()); b.GetId() < 0 || b.GetId() > maxTokenID || !(math.Abs(v) <= maxBias) {
			return bad(fmt.Sprintf("sampling.bias[%d]", i), fmt.Sprintf("needs a token id and a value from -%d to %d", maxBias, maxBias))
		}
	}
	if len(s.GetStopIds()) > sample.MaxStopIDs {
		return bad("sampling.stop_ids", fmt.Sprintf("has more than %d ids", sample.MaxStopIDs))
	}
	return nil
}
