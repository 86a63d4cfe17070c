package gateway

import (
	"fmt"
	"math"
	"strconv"

	"github.com/shoal-llm/shoal/pkg/sample"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// The plain protocol of /streaming: one request, then one frame per committed
// token and one terminal frame, all JSON text.

// Defaults of the plain protocol.
const (
	plainMaxTokens   = 500
	plainTemperature = 0.7
)

// plainToken is sent once per committed token. Token may be empty while a
// character or a stop string is incomplete.
type plainToken struct {
	Type  string `json:"type"`
	Token string `json:"token"`
	Seq   uint64 `json:"seq"`
}

// appendToken appends the JSON of a plainToken.
func appendToken(dst []byte, text string, seq uint64) []byte {
	dst = appendQuoted(append(dst, `{"type":"token","token":`...), text)
	dst = strconv.AppendUint(append(dst, `,"seq":`...), seq, 10)
	return append(dst, '}')
}

// plainComplete ends an answer that reached its end.
type plainComplete struct {
	Type         string       `json:"type"`
	Text         string       `json:"text"`
	FinishReason string       `json:"finishReason"`
	Usage        plainUsage   `json:"usage"`
	Timings      plainTimings `json:"timings"`
	Model        string       `json:"model"`
	Precision    string       `json:"precision"`
	RequestID    string       `json:"requestId"`

	Memory *memoryReport `json:"memory,omitempty"` // when asked for
}

type plainUsage struct {
	PromptTokens     uint32 `json:"promptTokens"`
	CompletionTokens uint32 `json:"completionTokens"`
}

// plainTimings are milliseconds at the coordinator: waiting, to the first
// token, and from the first token to the last.
type plainTimings struct {
	QueueMs         float64 `json:"queueMs"`
	PromptMs        float64 `json:"promptMs"`
	PredictedMs     float64 `json:"predictedMs"`
	TokensPerSecond float64 `json:"tokensPerSecond"`
}

// plainStopped ends an answer that the server had to end.
type plainStopped struct {
	Type      string `json:"type"`
	Reason    string `json:"reason"`
	RequestID string `json:"requestId"`
}

// plainError ends an answer that failed, or refuses a request.
type plainError struct {
	Type      string `json:"type"`
	Code      string `json:"code"`
	Message   string `json:"message"`
	Param     string `json:"param,omitempty"`
	Retryable bool   `json:"retryable"`
	RequestID string `json:"requestId"`

	RetryAfterMs int64 `json:"retryAfterMs,omitempty"`
}

func (p *problem) plain(requestID string) plainError {
	return plainError{"error", p.code, p.message, guideParam(p.param), p.retryable, requestID, p.retryAfter.Milliseconds()}
}

// guideParams are the names of the guide for what the coordinator calls
// otherwise.
var guideParams = map[string]string{
	"kv.bits":        "config.kvCacheConfig.bits",
	"kv.group_size":  "config.kvCacheConfig.groupSize",
	"kv.max_seq_len": "config.kvCacheConfig.maxSeqLen",
	"kv.progressive": "config.kvCacheConfig.progressivePrecision",

	"kv.optimized":         "config.optimizeKVCache",
	"kv.compression":       "config.kvCacheConfig.attentionCompression.enabled",
	"kv.compression_ratio": "config.kvCacheConfig.attentionCompression.compressionRatio",
	"kv.compress_older":    "config.kvCacheConfig.attentionCompression.compressTokensOlderThan",

	"layer_precisions": "config.adaptivePrecisionConfig.layerPrecisions",

	"ignore_eos": "ignoreEos",
	"logit_bias": "logitBias",
	"max_tokens": "maxTokens",
}

// guideParam is the guide's name of a member of a request.
func guideParam(param string) string { return orDefault(guideParams[param], param) }

// parsePlain reads a request of the plain protocol. The error is one that
// problemOf understands; it names the member that is wrong.
func parsePlain(data []byte, messages int) (*pb.Generation, error) {
	r, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	g := &pb.Generation{Sampling: plainSampling(r), MaxTokensClamp: true}
	plainInput(r, g, messages)
	g.Model = plainModel(r)
	readConfig(r, g)
	g.Stop = r.Strings("stop", maxStops, maxStopBytes)
	g.Sampling.Seed, g.SeedSet = r.Bits("seed")
	if err := r.Err(); err != nil {
		return nil, err
	}
	if err := checkModel(g.Model, "model"); err != nil {
		return nil, err
	}
	return g, nil
}

// plainInput reads what to answer: a prompt, which is one user turn, with pictures
// before it, unless raw asks to continue it as it is, or a conversation.
func plainInput(r *strictjson.Reader, g *pb.Generation, messages int) {
	prompt, hasPrompt := r.String("prompt", maxText)
	system, hasSystem := r.String("system", maxText)
	raw, _ := r.Bool("raw")
	pictures := readImages(r, prompt, dataURL)
	switch {
	case len(pictures) > 0 && (!hasPrompt || raw):
		r.Fail("images", "needs a prompt that is not raw; the parts of a message can hold pictures, too")
	case hasPrompt && r.Has("messages"):
		r.Fail("messages", "cannot be given together with prompt")
	case !hasPrompt && !r.Has("messages"):
		r.Fail("prompt", "is missing")
	case raw && !hasPrompt:
		r.Fail("raw", "needs a prompt")
	case raw && hasSystem:
		r.Fail("system", "has no place in a raw prompt")
	case raw:
		g.Input = &pb.Generation_Raw{Raw: prompt}
	case hasPrompt && !hasSystem && len(pictures) == 0:
		g.Input = &pb.Generation_Prompt{Prompt: prompt}
	default:
		chat := &pb.Chat{Messages: []*pb.Message{{Role: "user", Content: prompt}}}
		if len(pictures) > 0 {
			chat.Messages[0].Content, chat.Messages[0].Parts = "", pictures
		}
		if !hasPrompt {
			chat = readMessages(r, "messages", messages)
		}
		if hasSystem && chat != nil {
			turn := &pb.Message{Role: "system", Content: system}
			chat.Messages = append([]*pb.Message{turn}, chat.Messages...)
		}
		g.Input = &pb.Generation_Chat{Chat: chat}
	}
	if hasPrompt && prompt == "" && raw {
		r.Fail("prompt", "must not be empty")
	}
}

func plainSampling(r *strictjson.Reader) *pb.Sampling {
	s := &pb.Sampling{MaxTokens: plainMaxTokens, Temperature: plainTemperature}
	if n, ok := r.Int("maxTokens", 1, maxTokens); ok {
		s.MaxTokens = int32(n)
	}
	if t, ok := r.Float("temperature", 0, sample.MaxTemperature); ok {
		s.Temperature = float32(t)
	}
	s.TopP = fraction(r, "topP")
	topK, _ := r.Int("topK", 0, maxTopK)
	s.TopK = int32(topK)
	minP, _ := r.Float("minP", 0, 1)
	s.MinP = float32(minP)
	s.RepetitionPenalty = repetition(r, "repetitionPenalty")
	presence, _ := r.Float("presencePenalty", -maxPenalty, maxPenalty)
	frequency, _ := r.Float("frequencyPenalty", -maxPenalty, maxPenalty)
	s.PresencePenalty, s.FrequencyPenalty = float32(presence), float32(frequency)
	return s
}

// repetition reads a factor; 0 would divide by nothing.
func repetition(r *strictjson.Reader, member string) float32 {
	x, ok := r.Float(member, 0, maxRepeat)
	if ok && float32(x) == 0 {
		r.Fail(member, fmt.Sprintf("must be above 0 and at most %d", maxRepeat))
	}
	return float32(x)
}

// plainModel reads the model under either of its names.
func plainModel(r *strictjson.Reader) string {
	name, _ := r.String("model", maxText)
	path, _ := r.String("modelPath", maxText)
	if name != "" && path != "" && name != path {
		r.Fail("modelPath", "names another model than model does")
	}
	return orDefault(name, path)
}

// readConfig reads the precision and the guide's config object. Keys without an
// effect on a generation here are refused by name; the coordinator refuses values
// that its cluster does not serve.
func readConfig(r *strictjson.Reader, g *pb.Generation) {
	g.Precision = precision(r, "precision")
	config := r.Object("config")
	if config == nil {
		return
	}
	nested := precision(config, "quantization")
	if g.Precision != "" && nested != "" && g.Precision != nested {
		config.Fail("quantization", "asks for another precision than precision does")
	}
	g.Precision = orDefault(g.Precision, nested)
	mixed := readMixed(config, g)
	if kv := config.Object("kvCacheConfig"); kv != nil {
		g.Kv = readKV(kv)
		kv.Close()
	}
	if mixed {
		if g.Kv == nil {
			g.Kv = &pb.KvOptions{}
		}
		g.Kv.Progressive = true
	}
	readCompression(config, g)
	g.ReportMemory, _ = config.Bool("trackMemoryUsage")
	g.Scheduling = readScheduling(config)
	config.Close()
}

// components are what layerPrecisions names.
var components = []string{"embedding", "attention", "feedforward", "lmhead"}

// readMixed reads adaptivePrecisionConfig, which needs adaptive precision, and reports
// whether keys and values are to be finer where they are recent.
func readMixed(config *strictjson.Reader, g *pb.Generation) (kv bool) {
	const name = "adaptivePrecisionConfig"
	r := config.Object(name)
	if r == nil {
		return false
	}
	if g.Precision != "adaptive" {
		config.Fail(name, `needs quantization: "adaptive"`)
	}
	if mixed, ok := r.Bool("mixedPrecision"); ok && !mixed {
		r.Fail("mixedPrecision", "false asks for one precision of all weights: name it with quantization")
	}
	if parts := r.Object("layerPrecisions"); parts != nil {
		g.LayerPrecisions = map[string]string{}
		for _, c := range components {
			if p := precision(parts, c); p != "" {
				g.LayerPrecisions[c] = p
			}
		}
		parts.Close()
	}
	kv, _ = r.Bool("kvCacheMixedPrecision")
	r.Close()
	return kv
}

// readScheduling reads how the steps of an answer should be made; nil is no wish.
func readScheduling(config *strictjson.Reader) *pb.Scheduling {
	s, any := &pb.Scheduling{}, false
	wish := func(name string, to **bool) {
		value, ok := config.Bool(name)
		switch {
		case !ok:
		case *to != nil && **to != value:
			config.Fail(name, "asks for the opposite of latencyOptimized")
		default:
			*to, any = &value, true
		}
	}
	wish("adaptiveBatchSize", &s.Adaptive)
	wish("latencyOptimized", &s.LowLatency)
	wish("lowLatencyMode", &s.LowLatency)
	wish("tokenPredictionEnabled", &s.Prediction)
	if chunk, ok := config.Int("streamingChunkSize", 1, maxContextTokens); ok {
		s.Chunk, any = uint32(chunk), true
	}
	if !any {
		return nil
	}
	return s
}

// maxContextTokens bounds what a client may call a context.
const maxContextTokens = 1 << 24

// readKV reads the client's wishes for the KV cache.
func readKV(kv *strictjson.Reader) *pb.KvOptions {
	bits, _ := kv.Int("bits", 2, 16)
	group, _ := kv.Int("groupSize", 1, 1<<16)
	length, _ := kv.Float("maxSeqLen", 1, maxContextTokens) // the guide computes it: 1.5 contexts
	progressive, _ := kv.Bool("progressivePrecision")
	out := &pb.KvOptions{Bits: uint32(bits), GroupSize: uint32(group), MaxSeqLen: uint32(math.Ceil(length)), Progressive: progressive}
	if c := kv.Object("attentionCompression"); c != nil {
		on, ok := c.Bool("enabled")
		on = on || !ok
		ratio, _ := c.Int("compressionRatio", 1, 1<<16)
		out.Compression, out.CompressionRatio = &on, uint32(ratio)
		if older, ok := c.Int("compressTokensOlderThan", 0, maxContextTokens); ok {
			n := uint32(older)
			out.CompressOlder = &n
		}
		c.Close()
	}
	return out
}

// readCompression reads what the config object says of the KV cache besides: the short
// names of the guide, which mean the same as those of kvCacheConfig.
func readCompression(config *strictjson.Reader, g *pb.Generation) {
	kv := g.Kv
	if kv == nil {
		kv = &pb.KvOptions{}
	}
	any := false
	for _, name := range []string{"optimizeKVCache", "kvCacheOptimization"} {
		optimised, ok := config.Bool(name)
		if !ok {
			continue
		}
		if !optimised && (kv.Optimized || g.Kv != nil) {
			config.Fail(name, "contradicts other wishes for the KV cache")
		}
		if any = true; optimised {
			kv.Optimized = true
		} else {
			kv.Bits = 16
		}
	}
	if on, ok := config.Bool("contextCompressionEnabled"); ok {
		if kv.Compression != nil && kv.GetCompression() != on {
			config.Fail("contextCompressionEnabled", "contradicts kvCacheConfig.attentionCompression.enabled")
		}
		kv.Compression, any = &on, true
	}
	if ratio, ok := config.Int("contextCompressionRatio", 1, 1<<16); ok {
		if kv.CompressionRatio != 0 && kv.CompressionRatio != uint32(ratio) {
			config.Fail("contextCompressionRatio", "contradicts kvCacheConfig.attentionCompression.compressionRatio")
		}
		kv.CompressionRatio, any = uint32(ratio), true
	}
	if any {
		g.Kv = kv
	}
}

// precision reads "int4" or 4, which mean the same; 16 is "fp16".
func precision(r *strictjson.Reader, member string) string {
	if r.Kind(member) != strictjson.Number {
		name, ok := r.String(member, maxShortText)
		if ok && name == "" {
			r.Fail(member, "must not be an empty string")
		}
		return name
	}
	bits, ok := r.Int(member, 2, 16)
	switch {
	case !ok:
		return ""
	case bits == 16:
		return "fp16"
	case bits == 2 || bits == 3 || bits == 4 || bits == 8:
		return fmt.Sprintf("int%d", bits)
	}
	r.Fail(member, "must be 2, 3, 4, 8 or 16 bits")
	return ""
}
