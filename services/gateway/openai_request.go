package gateway

import (
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/shoal-llm/shoal/pkg/sample"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// Limits that OpenAI's API sets.
const (
	chatStops    = 4
	chatChoices  = 8
	chatMetadata = 16
)

// chatRequest is a request of /v1/chat/completions.
type chatRequest struct {
	generation   *pb.Generation
	choices      int
	stream       bool
	includeUsage bool
	obfuscate    bool // pad chunks, so that their sizes do not tell their text
}

// generations returns one generation per choice. With a seed, choice i has the
// seed plus i: equal seeds would give equal choices.
func (c *chatRequest) generations() []*pb.Generation {
	list := []*pb.Generation{c.generation}
	for i := 1; i < c.choices; i++ {
		g := proto.CloneOf(c.generation)
		g.Sampling.Seed += uint64(i)
		list = append(list, g)
	}
	return list
}

// parseChat reads a request. Every parameter has an effect or is refused by
// name; user and metadata are identifiers of the caller's own, checked and not
// used.
func parseChat(data []byte, messages int) (*chatRequest, error) {
	r, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	c := &chatRequest{choices: 1}
	model, _ := r.String("model", maxText)
	c.generation = &pb.Generation{
		Model:          model,
		Input:          &pb.Generation_Chat{Chat: readMessages(r, "messages", messages)},
		Sampling:       chatSampling(r),
		Stop:           r.Strings("stop", chatStops, maxStopBytes),
		MaxTokensClamp: true, SeparateReasoning: true,
	}
	c.generation.Sampling.Seed, c.generation.SeedSet = r.Bits("seed")
	c.stream, _ = r.Bool("stream")
	chatStreamOptions(r, c)
	if n, ok := r.Int("n", 1, chatChoices); ok {
		c.choices = int(n)
	}
	chatIdentifiers(r)
	c.generation.ResponseFormat = readFormat(r)
	readTools(r, c.generation)
	r.Empty("functions", "store")
	if err := r.Err(); err != nil {
		return nil, err
	}
	if err := checkModel(model, "model"); err != nil {
		return nil, err
	}
	return c, nil
}

func chatSampling(r *strictjson.Reader) *pb.Sampling {
	s := &pb.Sampling{Temperature: 1, MaxTokens: chatMaxTokens(r)}
	readOpenSampling(r, s)
	s.Logprobs, _ = r.Bool("logprobs")
	top, ok := r.Int("top_logprobs", 0, sample.MaxTopLogProbs)
	if ok && !s.Logprobs {
		r.Fail("top_logprobs", "needs logprobs to be true")
	}
	s.TopLogprobs = int32(top)
	return s
}

// chatMaxTokens reads the bound under either of its names; 0 is the rest of the
// context.
func chatMaxTokens(r *strictjson.Reader) int32 {
	old, hasOld := r.Int("max_tokens", 1, maxTokens)
	n, has := r.Int("max_completion_tokens", 1, maxTokens)
	if hasOld && has && old != n {
		r.Fail("max_tokens", "differs from max_completion_tokens, which means the same")
	}
	return int32(max(old, n))
}

// readBias reads a map from token ids to what is added to their logits.
func readBias(r *strictjson.Reader, member string) []*pb.LogitBias {
	o := r.Object(member)
	if o == nil {
		return nil
	}
	names := o.Names()
	if len(names) > sample.MaxBias {
		r.Fail(member, fmt.Sprintf("has more than %d entries", sample.MaxBias))
		return nil
	}
	var list []*pb.LogitBias
	for _, name := range names {
		id, err := strconv.ParseUint(name, 10, 31)
		if err != nil || id > maxTokenID || strconv.FormatUint(id, 10) != name {
			o.Fail(name, "is not a token id")
			return nil
		}
		value, _ := o.Float(name, -maxBias, maxBias)
		list = append(list, &pb.LogitBias{Id: int32(id), Value: float32(value)})
	}
	return list
}

func chatStreamOptions(r *strictjson.Reader, c *chatRequest) {
	o := r.Object("stream_options")
	if o == nil {
		return
	}
	if !c.stream {
		r.Fail("stream_options", "needs stream to be true")
	}
	c.includeUsage, _ = o.Bool("include_usage")
	c.obfuscate, _ = o.Bool("include_obfuscation")
	o.Close()
}

// chatIdentifiers checks what the caller may attach for its own use.
func chatIdentifiers(r *strictjson.Reader) {
	r.String("user", maxShortText)
	o := r.Object("metadata")
	if o == nil {
		return
	}
	if len(o.Names()) > chatMetadata {
		r.Fail("metadata", fmt.Sprintf("has more than %d entries", chatMetadata))
	}
	for _, name := range o.Names() {
		o.String(name, maxShortText)
	}
}
