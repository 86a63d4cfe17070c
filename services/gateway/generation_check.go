package gateway

import (
	"fmt"
	"math"
	"slices"

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
	if g.GetDeadlineMs() < 0 {
		return bad("deadline_ms", "must not be negative")
	}
	return checkSampling(g.GetSampling(), bad)
}

func checkChat(c *pb.Chat, messages int, bad func(param, why string) *problem) *problem {
	if n := len(c.GetMessages()); n == 0 || n > messages {
		return bad("chat.messages", fmt.Sprintf("must hold 1 to %d messages", messages))
	}
	for i, m := range c.GetMessages() {
		if !slices.Contains([]string{"system", "user", "assistant", "tool"}, m.GetRole()) {
			return bad(fmt.Sprintf("chat.messages[%d].role", i), "must be system, user, assistant or tool")
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
