package gateway

import (
	"encoding/json"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// The rich protocol of /streaming, subprotocol shoal.v1.json: frames of JSON
// text, each {"v":1,"type":…,"id":…}. Many generations run on one socket, each
// under the id that its client gave it. The same frames leave a POST to
// /streaming as server-sent events.
//
// From the client: generate, stop, resume, ping. To the client: accepted,
// progress, token, usage, and exactly one of complete, stopped and error;
// pong. An error with "refused" names the type of a frame that was refused: it
// ends nothing.

// richProtocol is the subprotocol.
const richProtocol = "shoal.v1.json"

const richVersion = 1

// Types of frames.
const (
	typeGenerate = "generate"
	typeStop     = "stop"
	typeResume   = "resume"
	typeControl  = "control"
	typePing     = "ping"

	typeAccepted = "accepted"
	typeProgress = "progress"
	typeToken    = "token"
	typeUsage    = "usage"
	typeComplete = "complete"
	typeStopped  = "stopped"
	typeError    = "error"
	typePong     = "pong"
)

// richHead begins every frame of a generation.
type richHead struct {
	V    int    `json:"v"`
	Type string `json:"type"`
	ID   string `json:"id,omitempty"`
}

// richAccepted says how the answer is made. Only progress of waiting comes before
// it; after a resume it comes again.
type richAccepted struct {
	richHead
	RequestID    string   `json:"requestId"`
	Session      string   `json:"session"`
	Model        string   `json:"model"`
	Precision    string   `json:"precision"`
	Fingerprint  string   `json:"fingerprint"`
	Seed         uint64   `json:"seed"`
	MaxTokens    uint32   `json:"maxTokens"`
	PromptTokens int      `json:"promptTokens"`
	KV           richKV   `json:"kv"`
	Route        []string `json:"route"` // "node/device [first..end)"
	Notes        []string `json:"notes"` // what was clamped
	Resumable    bool     `json:"resumable"`
}

// richKV is what the KV cache holds for the answer.
type richKV struct {
	MaxSeqLen uint32 `json:"maxSeqLen"` // prompt and answer at most
}

// richProgress is sent while no token is.
type richProgress struct {
	richHead
	Phase       string   `json:"phase"` // queued, loading, prefill, recovering, waiting
	Done        int64    `json:"done"`
	Total       int64    `json:"total"`
	Fingerprint string   `json:"fingerprint,omitempty"` // of what the answer continues on, when that has changed
	Notes       []string `json:"notes,omitempty"`       // what that means
}

// richToken is one committed token, or several where the client is behind: seq
// is the number of the last, tokens how many they are, and pieces their texts.
type richToken struct {
	richHead
	Seq       uint64        `json:"seq"`
	Text      string        `json:"text"`
	Tokens    int           `json:"tokens"`
	Pieces    []string      `json:"pieces,omitempty"`
	Last      bool          `json:"last,omitempty"` // the answer is complete with it
	Reasoning bool          `json:"reasoning,omitempty"`
	ToolCall  *richToolCall `json:"toolCall,omitempty"`
	TokenID   *int32        `json:"tokenId,omitempty"`
	TokenIDs  []int32       `json:"tokenIds,omitempty"` // of several
	Logprob   *richLogprob  `json:"logprob,omitempty"`
	Logprobs  []richLogprob `json:"logprobs,omitempty"` // of several
}

type richToolCall struct {
	Index     uint32 `json:"index"`
	ID        string `json:"id,omitempty"`
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments,omitempty"`
}

// richLogprob is the log-probability of a token and of its best alternatives.
type richLogprob struct {
	Logprob float32          `json:"logprob"`
	Top     []richTopLogprob `json:"top,omitempty"`
}

type richTopLogprob struct {
	TokenID int32   `json:"tokenId"`
	Text    string  `json:"text"`
	Logprob float32 `json:"logprob"`
}

// richUsage counts tokens; it comes before complete and stopped.
type richUsage struct {
	richHead
	PromptTokens     uint32 `json:"promptTokens"`
	CompletionTokens uint32 `json:"completionTokens"`
	CachedTokens     uint32 `json:"cachedTokens"`
}

// richComplete ends an answer that reached its end. Text and calls were held
// back, as a possible stop string or until they were whole; they are part of no
// token.
type richComplete struct {
	richHead
	FinishReason string         `json:"finishReason"` // stop, length, tool_calls
	Text         string         `json:"text,omitempty"`
	ToolCalls    []richToolCall `json:"toolCalls,omitempty"`
	StopString   string         `json:"stopString,omitempty"`
	Timings      plainTimings   `json:"timings"`
	RequestID    string         `json:"requestId"`
	Memory       *memoryReport  `json:"memory,omitempty"` // when asked for
}

// richStopped ends an answer that somebody ended: client, drain, deadline or
// disconnected.
type richStopped struct {
	richHead
	Reason    string       `json:"reason"`
	Timings   plainTimings `json:"timings"`
	RequestID string       `json:"requestId"`
}

// richError ends an answer that failed. With refused it ends nothing.
type richError struct {
	richHead
	Code      string `json:"code"`
	Message   string `json:"message"`
	Param     string `json:"param,omitempty"`
	Retryable bool   `json:"retryable"`
	Refused   string `json:"refused,omitempty"`
	RequestID string `json:"requestId,omitempty"`

	RetryAfterMs int64 `json:"retryAfterMs,omitempty"`
}

// richPong answers a ping with its own words.
type richPong struct {
	richHead
	T json.RawMessage `json:"t,omitempty"`
}

func head(kind, id string) richHead { return richHead{richVersion, kind, id} }

// refusal is the answer to a frame that cannot be served.
func (p *problem) refusal(refused, id string) richError {
	return richError{
		richHead: head(typeError, id), Code: p.code, Message: p.message, Param: p.param,
		Retryable: p.retryable, Refused: orDefault(refused, "frame"), RetryAfterMs: p.retryAfter.Milliseconds(),
	}
}

// showing is what a client wants to see of each token.
type showing struct {
	ids      bool
	logprobs bool
	context  uint32 // of a session, as far as the client limited it
}

// shownNote is showing as one gateway writes it down for another.
type shownNote struct {
	IDs      bool   `json:"ids,omitempty"`
	Logprobs bool   `json:"logprobs,omitempty"`
	Context  uint32 `json:"context,omitempty"`
}

func (s showing) note() []byte {
	data, _ := json.Marshal(shownNote{s.ids, s.logprobs, s.context}) // nothing in it can fail
	return data
}

// shownBy reads a note. One of a version that writes others shows tokens alone.
func shownBy(note []byte) showing {
	var n shownNote
	_ = json.Unmarshal(note, &n)
	return showing{n.IDs, n.Logprobs, n.Context}
}

// frames writes a portion of a recording: each frame with the number of the last
// token it shows, 0 for none. It stops at the first error.
func (r *recording) frames(b portion, write func(seq uint64, frame any) error) error {
	if b.accepted != nil {
		if err := write(0, r.acceptedFrame(b.accepted)); err != nil {
			return err
		}
	}
	if b.progress != nil {
		p := b.progress
		frame := richProgress{head(typeProgress, r.id), p.GetPhase(), p.GetDone(), p.GetTotal(), p.GetFingerprint(), p.GetNotes()}
		if err := write(0, frame); err != nil {
			return err
		}
	}
	first := b.seq - uint64(len(b.tokens)) + 1
	for rest := b.tokens; len(rest) > 0; {
		n := run(rest)
		seq := first + uint64(len(b.tokens)-len(rest)+n) - 1
		if err := write(seq, r.tokenFrame(seq, rest[:n])); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if b.terminal == nil {
		return nil
	}
	return r.terminalFrames(b.terminal, write)
}

// run is how many tokens go into the next frame: those of one kind, and each
// part of a tool call alone.
func run(tokens []entry) int {
	n := 1
	for tokens[0].call == nil && n < len(tokens) && tokens[n].call == nil && tokens[n].thinking == tokens[0].thinking {
		n++
	}
	return n
}

func (r *recording) acceptedFrame(a *pb.Accepted) richAccepted {
	context := r.show.context
	if most := uint32(len(a.GetPromptIds())) + a.GetMaxTokens(); context == 0 || most < context {
		context = most
	}
	return richAccepted{
		richHead: head(typeAccepted, r.id), RequestID: r.requestID, Session: a.GetId(),
		Model: a.GetModel(), Precision: a.GetPrecision(), Fingerprint: a.GetFingerprint(),
		Seed: a.GetSeed(), MaxTokens: a.GetMaxTokens(), PromptTokens: len(a.GetPromptIds()),
		KV: richKV{context}, Route: append([]string{}, a.GetRoute()...), Notes: append([]string{}, a.GetNotes()...),
		Resumable: r.resumable,
	}
}

func (r *recording) tokenFrame(seq uint64, tokens []entry) *richToken {
	last := tokens[len(tokens)-1]
	f := &richToken{
		richHead: head(typeToken, r.id), Seq: seq, Tokens: len(tokens), Last: last.last, Reasoning: last.thinking,
	}
	if len(tokens) == 1 {
		f.Text = last.text
		if r.show.ids {
			f.TokenID = &last.id
		}
		if r.show.logprobs && last.logprob != nil {
			lp := richLogprobOf(last.logprob)
			f.Logprob = &lp
		}
		if last.call != nil {
			f.ToolCall = &richToolCalls([]*pb.ToolCall{last.call})[0]
		}
		return f
	}
	var text []byte
	f.Pieces = make([]string, len(tokens))
	for i, t := range tokens {
		f.Pieces[i] = t.text
		text = append(text, t.text...)
		if r.show.ids {
			f.TokenIDs = append(f.TokenIDs, t.id)
		}
		if r.show.logprobs {
			f.Logprobs = append(f.Logprobs, richLogprobOf(t.logprob))
		}
	}
	f.Text = string(text)
	return f
}

func richToolCalls(calls []*pb.ToolCall) []richToolCall {
	var list []richToolCall
	for _, c := range calls {
		list = append(list, richToolCall{c.GetIndex(), c.GetId(), c.GetName(), c.GetArguments()})
	}
	return list
}

func richLogprobOf(lp *pb.LogProb) richLogprob {
	out := richLogprob{Logprob: lp.GetLogprob()}
	for _, t := range lp.GetTop() {
		out.Top = append(out.Top, richTopLogprob{t.GetId(), t.GetText(), t.GetLogprob()})
	}
	return out
}

// terminalFrames writes usage and the one frame that ends the answer.
func (r *recording) terminalFrames(e *pb.Event, write func(uint64, any) error) error {
	usage := func(u *pb.Usage) error {
		return write(0, richUsage{head(typeUsage, r.id), u.GetPromptTokens(), u.GetCompletionTokens(), u.GetCachedTokens()})
	}
	switch e := e.GetEvent().(type) {
	case *pb.Event_Complete:
		c := e.Complete
		if err := usage(c.GetUsage()); err != nil {
			return err
		}
		return write(0, richComplete{
			richHead: head(typeComplete, r.id), FinishReason: c.GetFinishReason(), Text: c.GetText(), ToolCalls: richToolCalls(c.GetToolCalls()),
			StopString: c.GetStopString(), Timings: timingsOf(c.GetUsage(), c.GetTimings()), RequestID: r.requestID,
			Memory: memoryReportOf(c.GetMemory()),
		})
	case *pb.Event_Stopped:
		s := e.Stopped
		if err := usage(s.GetUsage()); err != nil {
			return err
		}
		return write(0, richStopped{head(typeStopped, r.id), s.GetReason(), timingsOf(s.GetUsage(), s.GetTimings()), r.requestID})
	}
	p := problemFrom(e.GetError())
	return write(0, richError{
		richHead: head(typeError, r.id), Code: p.code, Message: p.message, Param: guideParam(p.param),
		Retryable: p.retryable, RequestID: r.requestID,
	})
}
