package gateway

import (
	"encoding/json"
	"strconv"

	"github.com/shoal-llm/shoal/pkg/sample"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// Bounds of the ids that clients give.
const (
	maxGenerationID = 128
	minResumableID  = 16 // whoever knows it may read the answer, so it must not be easy to guess
	maxPingText     = 128
)

// richRequest is a frame from a client.
type richRequest struct {
	kind       string
	id         string
	generation *pb.Generation // of generate
	resumable  bool
	show       showing
	after      uint64          // of resume
	echo       json.RawMessage // of ping
}

// parseRich reads a frame. On an error the request still has its kind and id,
// as far as they could be read. anonymous allows a generate without an id.
func parseRich(data []byte, messages int, anonymous bool) (*richRequest, error) {
	q := &richRequest{}
	r, err := parseObject(data)
	if err != nil {
		return q, err
	}
	if version, ok := r.Int("v", 0, 1<<31); version != richVersion && (ok || !anonymous) {
		r.Fail("v", "must be 1")
	}
	q.kind, _ = r.String("type", maxShortText)
	hasID := r.Has("id")
	q.id, _ = r.String("id", maxGenerationID)
	if q.kind == "" && anonymous && !r.Has("type") {
		q.kind = typeGenerate
	}
	if q.kind != typePing && (hasID || !anonymous || q.kind != typeGenerate) {
		checkID(r, q.id)
	}
	switch q.kind {
	case typeGenerate:
		readGenerate(r, q, messages)
	case typeStop:
	case typeResume:
		after, ok := r.Int("after_seq", 0, 1<<53)
		if !ok {
			r.Fail("after_seq", "is missing")
		}
		q.after = uint64(after)
	case typePing:
		readPing(r, q)
	case typeControl:
		r.Refuse("type", "control has no effect in this version")
	default:
		r.Fail("type", "must be generate, stop, resume or ping")
	}
	if err := r.Err(); err != nil {
		return q, err
	}
	if q.generation != nil {
		return q, checkModel(q.generation.Model, "model")
	}
	return q, nil
}

// keep has the answer outlive this gateway.
func (q *richRequest) keep() {
	q.generation.Keep = &pb.Keep{Id: q.id, Note: q.show.note()}
}

// knownKind is the type of the frame, if it is one of the protocol's.
func (q *richRequest) knownKind() string {
	switch q.kind {
	case typeGenerate, typeStop, typeResume, typePing, typeControl:
		return q.kind
	}
	return ""
}

// checkID refuses ids that do not print.
func checkID(r *strictjson.Reader, id string) {
	switch {
	case id == "":
		r.Fail("id", "is missing: every generation has an id of its own")
	case !printable(id):
		r.Fail("id", "must be printable ASCII without spaces")
	}
}

// readGenerate reads a generation: what the plain protocol takes, and more.
func readGenerate(r *strictjson.Reader, q *richRequest, messages int) {
	g := &pb.Generation{Sampling: plainSampling(r), MaxTokensClamp: true}
	plainInput(r, g, messages)
	g.SeparateReasoning = g.GetRaw() == ""
	g.Model = plainModel(r)
	g.Stop = r.Strings("stop", maxStops, maxStopBytes)
	g.Sampling.Seed, g.SeedSet = r.Bits("seed")
	g.DeadlineMs, _ = r.Int("deadlineMs", 1, 1<<53)
	g.Truncate, _ = r.Bool("truncate")
	readRichSampling(r, q, g.Sampling)
	g.ResponseFormat = readFormat(r) // these, like messages, are spelled as OpenAI spells them
	readTools(r, g)
	readConfig(r, g)
	q.show.context = g.GetKv().GetMaxSeqLen()
	q.resumable, _ = r.Bool("resumable")
	if q.resumable && r.Has("id") && len(q.id) < minResumableID {
		r.Fail("id", "of a resumable generation must have at least "+strconv.Itoa(minResumableID)+" characters that nobody can guess")
	}
	q.generation = g
}

// readRichSampling reads what the plain protocol does not have.
func readRichSampling(r *strictjson.Reader, q *richRequest, s *pb.Sampling) {
	window, _ := r.Int("penaltyWindow", 0, 1<<31-1)
	s.PenaltyWindow = int32(window)
	s.IgnoreEos, _ = r.Bool("ignoreEos")
	s.Bias = readBias(r, "logitBias")
	q.show.ids, _ = r.Bool("tokenIds")
	q.show.logprobs, _ = r.Bool("logprobs")
	s.Logprobs = q.show.logprobs
	top, ok := r.Int("topLogprobs", 0, sample.MaxTopLogProbs)
	if ok && !s.Logprobs {
		r.Fail("topLogprobs", "needs logprobs to be true")
	}
	s.TopLogprobs = int32(top)
}

// readPing reads a word or number that the pong gives back.
func readPing(r *strictjson.Reader, q *richRequest) {
	switch r.Kind("t") {
	case strictjson.Null:
		r.Empty("t")
	case strictjson.Number:
		t, _ := r.Float("t", -1<<53, 1<<53)
		q.echo, _ = json.Marshal(t)
	default:
		t, _ := r.String("t", maxPingText)
		q.echo, _ = json.Marshal(t)
	}
}
