package gateway

import (
	"fmt"
	"strings"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// Limits of single members of a request, the same at every JSON door.
const (
	maxDepth     = 32
	maxValues    = 100_000
	maxModelName = 512
	maxShortText = 512
	maxStopBytes = 1024
	maxStops     = 16 // as Generation.stop
	maxTokens    = 1<<31 - 1
	maxTopK      = 1 << 20
	maxTokenID   = 1<<24 - 1 // no vocabulary is larger; the coordinator knows its model's
	maxBias      = 100
	maxPenalty   = 2
	maxRepeat    = 10
)

var jsonLimits = strictjson.Limits{Depth: maxDepth, Values: maxValues}

// parseObject reads a request that must be one JSON object.
func parseObject(data []byte) (*strictjson.Reader, error) {
	v, err := strictjson.Parse(data, jsonLimits)
	if err != nil {
		return nil, err
	}
	return strictjson.Read(v)
}

// checkModel refuses a name that no model can have as one that is not found,
// like any other.
func checkModel(name, param string) error {
	if len(name) > maxModelName {
		return noSuchModel(name, param)
	}
	return nil
}

// noSuchModel is the answer to a name that no model has.
func noSuchModel(name, param string) *problem {
	if len(name) > longestEcho {
		name = strings.ToValidUTF8(name[:longestEcho], "") + "…"
	}
	return &problem{code: codeModelNotFound, param: param, message: fmt.Sprintf("The model %q is not served here.", name)}
}

// longestEcho is how much of a stranger's name an error repeats.
const longestEcho = 64

// readMessages reads a conversation in OpenAI's shape.
func readMessages(r *strictjson.Reader, member string, limit int) *pb.Chat {
	items := r.Objects(member, limit)
	if len(items) == 0 {
		r.Fail(member, "must hold at least one message")
		return nil
	}
	chat := &pb.Chat{}
	for _, item := range items {
		chat.Messages = append(chat.Messages, readMessage(item))
		item.Close()
	}
	return chat
}

func readMessage(r *strictjson.Reader) *pb.Message {
	m := &pb.Message{}
	role, _ := r.String("role", maxShortText)
	switch role {
	case "system", "user":
		m.Role = role
	case "assistant":
		m.Role = role
		m.ToolCalls = readCalls(r)
		m.Reasoning, _ = r.String("reasoning_content", maxText)
	case "tool":
		m.Role = role
		if m.ToolCallId, _ = r.String("tool_call_id", maxShortText); m.ToolCallId == "" {
			r.Fail("tool_call_id", "is missing: it says whose result this is")
		}
	case "developer": // OpenAI's newer word for the same turn
		m.Role = "system"
	case "function":
		r.Refuse("role", "is an older word for tool, which is supported here")
	default:
		r.Fail("role", "must be system, developer, user, assistant or tool")
	}
	if len(m.ToolCalls) == 0 || r.Has("content") {
		readContent(r, m)
	} else {
		r.Empty("content")
	}
	m.Name, _ = r.String("name", maxShortText)
	if m.Role != "assistant" {
		r.Empty("tool_calls")
	}
	// Clients send an answer back as they got it, with these members unused.
	r.Empty("refusal", "annotations", "audio", "function_call")
	return m
}

// readContent reads a string or an array of parts into a message.
func readContent(r *strictjson.Reader, m *pb.Message) {
	switch r.Kind("content") {
	case strictjson.String:
		m.Content, _ = r.String("content", maxText)
		return
	case strictjson.Array:
		var parts []*pb.Part
		for _, o := range r.Objects("content", maxParts) {
			part := readPart(o)
			if part == nil {
				return
			}
			parts = append(parts, part)
		}
		setParts(m, parts)
		return
	}
	r.Fail("content", "must be a string or an array of parts")
}

// The size of text is bounded by the door that reads the request.
const (
	maxText  = 1 << 30
	maxParts = 1024
)

// fraction reads a probability above 0, where 0 would allow no token at all.
func fraction(r *strictjson.Reader, member string) float32 {
	p, ok := r.Float(member, 0, 1)
	if ok && float32(p) == 0 {
		r.Fail(member, "must be above 0 and at most 1")
	}
	return float32(p)
}
