package gateway

import (
	"strings"

	"github.com/shoal-llm/shoal/pkg/sample"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// What Ollama does when an option is not given.
const (
	ollamaTemperature  = 0.8
	ollamaTopK         = 40
	ollamaTopP         = 0.9
	ollamaRepeat       = 1.1
	ollamaRepeatWindow = 64
)

// ollamaRequest is a request of /api/generate or /api/chat.
type ollamaRequest struct {
	generation *pb.Generation
	model      string // as the client spells it
	stream     bool
	load       bool // without input: the client wants the model loaded, and it is
}

// parseOllama reads a request. input reads what differs between the two. Every
// parameter has an effect or is refused by name, except keep_alive, which
// clients always send: models stay loaded.
func parseOllama(data []byte, input func(r *strictjson.Reader, q *ollamaRequest)) (*ollamaRequest, error) {
	r, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	q := &ollamaRequest{stream: true}
	if q.model, _ = r.String("model", maxText); q.model == "" {
		r.Fail("model", "is missing")
	}
	q.generation = &pb.Generation{
		Model: strings.TrimSuffix(q.model, latest), MaxTokensClamp: true,
		Sampling: &pb.Sampling{
			Temperature: ollamaTemperature, TopK: ollamaTopK, TopP: ollamaTopP,
			RepetitionPenalty: ollamaRepeat, PenaltyWindow: ollamaRepeatWindow,
		},
	}
	if stream, ok := r.Bool("stream"); ok {
		q.stream = stream
	}
	readKeepAlive(r)
	if o := r.Object("options"); o != nil {
		readOllamaOptions(o, q.generation)
		o.Close()
	}
	r.Empty("think")
	input(r, q)
	if err := r.Err(); err != nil {
		return nil, err
	}
	return q, checkModel(q.model, "model")
}

// readKeepAlive checks a duration, as words or seconds, that has no use here.
func readKeepAlive(r *strictjson.Reader) {
	if r.Kind("keep_alive") == strictjson.Number {
		r.Float("keep_alive", -1<<53, 1<<53)
		return
	}
	r.String("keep_alive", maxShortText)
}

// readOllamaOptions reads sampling options. Options about memory and threads
// are the operator's to choose: Close refuses them by name.
func readOllamaOptions(o *strictjson.Reader, g *pb.Generation) {
	s := g.Sampling
	if t, ok := o.Float("temperature", 0, sample.MaxTemperature); ok {
		s.Temperature = float32(t)
	}
	if k, ok := o.Int("top_k", 0, maxTopK); ok {
		s.TopK = int32(k)
	}
	if o.Has("top_p") {
		s.TopP = fraction(o, "top_p")
	}
	minP, _ := o.Float("min_p", 0, 1)
	s.MinP = float32(minP)
	s.Seed, g.SeedSet = o.Bits("seed")
	if o.Has("repeat_penalty") {
		s.RepetitionPenalty = repetition(o, "repeat_penalty")
	}
	readRepeatWindow(o, s)
	presence, _ := o.Float("presence_penalty", -maxPenalty, maxPenalty)
	frequency, _ := o.Float("frequency_penalty", -maxPenalty, maxPenalty)
	s.PresencePenalty, s.FrequencyPenalty = float32(presence), float32(frequency)
	g.Stop = o.Strings("stop", maxStops, maxStopBytes)
	// -1 and -2 are as much as fits, which is also what happens unasked.
	switch n, ok := o.Int("num_predict", -2, maxTokens); {
	case ok && n == 0:
		o.Fail("num_predict", "must not be 0")
	case n > 0:
		s.MaxTokens = int32(n)
	}
	if n, ok := o.Int("num_ctx", 1, maxContextTokens); ok {
		g.Kv = &pb.KvOptions{MaxSeqLen: uint32(n)}
	}
}

// readRepeatWindow reads how far back repetitions count: 0 is not at all, -1
// the whole context.
func readRepeatWindow(o *strictjson.Reader, s *pb.Sampling) {
	n, ok := o.Int("repeat_last_n", -1, maxTokens)
	switch {
	case ok && n == 0:
		s.RepetitionPenalty = 1
	case ok && n == -1:
		s.PenaltyWindow = 0
	case ok:
		s.PenaltyWindow = int32(n)
	}
}

// readOllamaPrompt reads the input of /api/generate.
func readOllamaPrompt(r *strictjson.Reader, q *ollamaRequest) {
	text, _ := r.String("prompt", maxText)
	system, _ := r.String("system", maxText)
	raw, _ := r.Bool("raw")
	pictures := readImages(r, text, fromBase64)
	r.Empty("suffix", "template", "context")
	q.generation.ResponseFormat = readOllamaFormat(r)
	switch {
	case text == "":
		q.load = true
	case raw && len(pictures) > 0:
		r.Fail("images", "have no place in a raw prompt")
	case raw && system != "":
		r.Fail("system", "has no place in a raw prompt")
	case raw:
		q.generation.Input = &pb.Generation_Raw{Raw: text}
	default:
		chat := &pb.Chat{}
		if system != "" {
			chat.Messages = append(chat.Messages, &pb.Message{Role: "system", Content: system})
		}
		turn := &pb.Message{Role: "user", Content: text}
		if len(pictures) > 0 {
			turn.Content, turn.Parts = "", pictures
		}
		chat.Messages = append(chat.Messages, turn)
		q.generation.Input = &pb.Generation_Chat{Chat: chat}
	}
}

// readOllamaMessages returns a reader of the input of /api/chat.
func readOllamaMessages(limit int) func(r *strictjson.Reader, q *ollamaRequest) {
	return func(r *strictjson.Reader, q *ollamaRequest) {
		var turns ollamaTurns
		for _, m := range r.Objects("messages", limit) {
			turns.read(m)
		}
		readTools(r, q.generation)
		q.generation.ResponseFormat = readOllamaFormat(r)
		q.generation.Input = &pb.Generation_Chat{Chat: &turns.chat}
		q.load = len(turns.chat.GetMessages()) == 0
	}
}
