package gateway

import (
	"google.golang.org/protobuf/proto"

	"github.com/shoal-llm/shoal/pkg/sample"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// Limits of /v1/completions.
const (
	completionChoices = 32 // prompts times n
	completionTokens  = 16 // of an answer when nothing is said
)

// completionRequest is a request of /v1/completions.
type completionRequest struct {
	generation   *pb.Generation // without input
	prompts      []promptInput
	n            int // choices of each prompt
	stream       bool
	includeUsage bool
	echo         bool
}

// choices is how many answers there will be.
func (c *completionRequest) choices() int { return c.n * len(c.prompts) }

// prefix is the text that a choice begins with.
func (c *completionRequest) prefix(choice int) string {
	if !c.echo {
		return ""
	}
	return c.prompts[choice/c.n].text
}

// generations returns one generation per choice, those of a prompt together.
// With a seed, choice i of a prompt has the seed plus i.
func (c *completionRequest) generations() []*pb.Generation {
	var list []*pb.Generation
	for _, p := range c.prompts {
		for i := range c.n {
			g := proto.CloneOf(c.generation)
			p.give(g)
			g.Sampling.Seed += uint64(i)
			list = append(list, g)
		}
	}
	return list
}

// parseCompletion reads a request. Every parameter has an effect or is refused
// by name; user is the caller's own, checked and not used.
func parseCompletion(data []byte) (*completionRequest, error) {
	r, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	model, _ := r.String("model", maxText)
	c := &completionRequest{n: 1, prompts: readPrompts(r, "prompt", completionChoices)}
	c.generation = &pb.Generation{
		Model: model, Sampling: completionSampling(r), MaxTokensClamp: true,
		Stop: r.Strings("stop", chatStops, maxStopBytes),
	}
	c.generation.Sampling.Seed, c.generation.SeedSet = r.Bits("seed")
	c.stream, _ = r.Bool("stream")
	c.includeUsage = completionStreamOptions(r, c.stream)
	if n, ok := r.Int("n", 1, chatChoices); ok {
		c.n = int(n)
	}
	if c.choices() > completionChoices {
		r.Fail("prompt", atMost(completionChoices, "answers, with n"))
	}
	if best, ok := r.Int("best_of", 1, chatChoices); ok && int(best) != c.n {
		r.Refuse("best_of", "must be n: all answers are returned")
	}
	c.readEcho(r)
	r.Empty("suffix")
	r.String("user", maxShortText)
	if err := r.Err(); err != nil {
		return nil, err
	}
	return c, checkModel(model, "model")
}

// readEcho reads whether answers begin with their prompts. Ids have no text
// here, and echoed text has no probabilities.
func (c *completionRequest) readEcho(r *strictjson.Reader) {
	c.echo, _ = r.Bool("echo")
	if !c.echo {
		return
	}
	if c.generation.Sampling.Logprobs {
		r.Refuse("echo", "cannot be given together with logprobs: prompts are not scored")
	}
	for _, p := range c.prompts {
		if p.ids != nil {
			r.Refuse("echo", "needs prompts that are text")
		}
	}
}

func completionSampling(r *strictjson.Reader) *pb.Sampling {
	s := &pb.Sampling{Temperature: 1, MaxTokens: completionTokens}
	if n, ok := r.Int("max_tokens", 1, maxTokens); ok {
		s.MaxTokens = int32(n)
	}
	readOpenSampling(r, s)
	if top, ok := r.Int("logprobs", 0, sample.MaxTopLogProbs); ok {
		s.Logprobs, s.TopLogprobs = true, int32(top)
	}
	return s
}

// readOpenSampling reads the sampling parameters that mean the same in all of
// OpenAI's APIs, and those that llama.cpp's server added.
func readOpenSampling(r *strictjson.Reader, s *pb.Sampling) {
	if t, ok := r.Float("temperature", 0, sample.MaxTemperature); ok {
		s.Temperature = float32(t)
	}
	s.TopP = fraction(r, "top_p")
	topK, _ := r.Int("top_k", 0, maxTopK)
	s.TopK = int32(topK)
	minP, _ := r.Float("min_p", 0, 1)
	s.MinP = float32(minP)
	s.RepetitionPenalty = repetition(r, "repeat_penalty")
	presence, _ := r.Float("presence_penalty", -maxPenalty, maxPenalty)
	frequency, _ := r.Float("frequency_penalty", -maxPenalty, maxPenalty)
	s.PresencePenalty, s.FrequencyPenalty = float32(presence), float32(frequency)
	s.Bias = readBias(r, "logit_bias")
}

func completionStreamOptions(r *strictjson.Reader, stream bool) (usage bool) {
	o := r.Object("stream_options")
	if o == nil {
		return false
	}
	if !stream {
		r.Fail("stream_options", "needs stream to be true")
	}
	usage, _ = o.Bool("include_usage")
	o.Empty("include_obfuscation")
	o.Close()
	return usage
}
