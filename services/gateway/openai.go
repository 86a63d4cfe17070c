package gateway

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"strings"
	"sync"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// The OpenAI chat API: the shapes that clients read, and the answer as a whole.

type chatCompletion struct {
	ID          string       `json:"id"`
	Object      string       `json:"object"`
	Created     int64        `json:"created"`
	Model       string       `json:"model"`
	Fingerprint string       `json:"system_fingerprint"`
	Choices     []chatChoice `json:"choices"`
	Usage       chatUsage    `json:"usage"`
	Timings     chatTimings  `json:"timings"`
}

type chatChoice struct {
	Index        int           `json:"index"`
	Message      chatMessage   `json:"message"`
	Logprobs     *chatLogprobs `json:"logprobs"`
	FinishReason string        `json:"finish_reason"`
}

type chatMessage struct {
	Role      string     `json:"role"`
	Content   *string    `json:"content"` // null in an answer that is calls alone
	Refusal   *string    `json:"refusal"` // always null
	Reasoning string     `json:"reasoning_content,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

// chatChunk is one event of a stream. Usage is null in all but the last when
// the client asked for it, and else absent.
type chatChunk struct {
	ID          string          `json:"id"`
	Object      string          `json:"object"`
	Created     int64           `json:"created"`
	Model       string          `json:"model"`
	Fingerprint string          `json:"system_fingerprint"`
	Choices     []chunkChoice   `json:"choices"`
	Usage       json.RawMessage `json:"usage,omitempty"`
	Timings     *chatTimings    `json:"timings,omitempty"`
	Obfuscation string          `json:"obfuscation,omitempty"`
}

type chunkChoice struct {
	Index        int           `json:"index"`
	Delta        chatDelta     `json:"delta"`
	Logprobs     *chatLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
}

type chatDelta struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	Reasoning string     `json:"reasoning_content,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type chatUsage struct {
	PromptTokens     uint32            `json:"prompt_tokens"`
	CompletionTokens uint32            `json:"completion_tokens"`
	TotalTokens      uint32            `json:"total_tokens"`
	Details          chatPromptDetails `json:"prompt_tokens_details"`
}

type chatPromptDetails struct {
	CachedTokens uint32 `json:"cached_tokens"`
}

// chatTimings are those of llama-server, which user interfaces read.
type chatTimings struct {
	PromptN            uint32  `json:"prompt_n"`
	PromptMs           float64 `json:"prompt_ms"`
	PromptPerSecond    float64 `json:"prompt_per_second"`
	PredictedN         uint32  `json:"predicted_n"`
	PredictedMs        float64 `json:"predicted_ms"`
	PredictedPerSecond float64 `json:"predicted_per_second"`
}

type chatLogprobs struct {
	Content []tokenLogprob `json:"content"`
}

type tokenLogprob struct {
	Token   string       `json:"token"`
	Logprob float32      `json:"logprob"`
	Bytes   []int        `json:"bytes"`
	Top     []topLogprob `json:"top_logprobs"`
}

type topLogprob struct {
	Token   string  `json:"token"`
	Logprob float32 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

// logprobOf returns what a token's event says about its probability, or nil.
func logprobOf(t *pb.Token) *tokenLogprob {
	lp := t.GetLogprob()
	if lp == nil {
		return nil
	}
	text := t.GetDelta().GetContent() + t.GetDelta().GetReasoning()
	out := &tokenLogprob{Token: text, Logprob: lp.GetLogprob(), Bytes: bytesOf(text), Top: []topLogprob{}}
	for _, alt := range lp.GetTop() {
		out.Top = append(out.Top, topLogprob{alt.GetText(), alt.GetLogprob(), bytesOf(alt.GetText())})
	}
	return out
}

// bytesOf lists the UTF-8 bytes of a token as numbers, as clients expect.
func bytesOf(text string) []int {
	list := make([]int, len(text))
	for i := range len(text) {
		list[i] = int(text[i])
	}
	return list
}

// tally adds up what the choices of one request cost. The prompt is the same in
// all and counts once.
type tally struct {
	usage   chatUsage
	timings chatTimings
	decoded uint32 // tokens after the first of their choice, which PredictedMs measures
}

func (t *tally) add(u *pb.Usage, m *pb.Timings) {
	t.usage.PromptTokens = max(t.usage.PromptTokens, u.GetPromptTokens())
	t.usage.CompletionTokens += u.GetCompletionTokens()
	t.usage.TotalTokens = t.usage.PromptTokens + t.usage.CompletionTokens
	t.usage.Details.CachedTokens = max(t.usage.Details.CachedTokens, u.GetCachedTokens())
	t.timings.PromptN = t.usage.PromptTokens - min(t.usage.Details.CachedTokens, t.usage.PromptTokens)
	t.timings.PromptMs = max(t.timings.PromptMs, m.GetPromptMs())
	t.timings.PromptPerSecond = perSecond(t.timings.PromptN, t.timings.PromptMs)
	t.timings.PredictedN = t.usage.CompletionTokens
	t.timings.PredictedMs = max(t.timings.PredictedMs, m.GetPredictedMs())
	t.decoded += max(u.GetCompletionTokens(), 1) - 1
	t.timings.PredictedPerSecond = perSecond(t.decoded, t.timings.PredictedMs)
}

// perSecond is a rate, 0 when no time was measured.
func perSecond(n uint32, ms float64) float64 {
	if ms <= 0 {
		return 0
	}
	return 1000 * float64(n) / ms
}

// chatHead is what the whole answer and each of its chunks begin with.
type chatHead struct {
	id, model, fingerprint string
	created                int64
}

func (h *chatHead) accept(a *pb.Accepted) {
	h.model, h.fingerprint = a.GetModel(), a.GetFingerprint()
}

// chat serves POST /v1/chat/completions.
func (g *Gateway) chat(w http.ResponseWriter, r *http.Request) {
	c, p := g.readChat(w, r)
	ctx, req, leave, ok := g.enter(w, r, "openai", c.generation, p)
	defer leave()
	if !ok {
		return
	}
	head := chatHead{id: "chatcmpl-" + req.id, created: time.Now().Unix()}
	events := g.choices(ctx, req, c.generations())
	if c.stream {
		newChatStream(w, c, head, g.config.Limits.WriteTimeout).serve(events)
		return
	}
	if done, p := wholeChat(events, head, c.choices); p != nil {
		p.write(w)
	} else {
		writeJSON(w, http.StatusOK, done)
	}
}

// readChat reads and checks a request; with a problem the request is empty.
func (g *Gateway) readChat(w http.ResponseWriter, r *http.Request) (*chatRequest, *problem) {
	data, p := g.readBody(w, r)
	if p != nil {
		return &chatRequest{}, p
	}
	c, err := parseChat(data, g.config.Limits.Messages)
	if err != nil {
		return &chatRequest{}, problemOf(err)
	}
	return c, nil
}

// choiceEvent is an event of one of the choices of a request.
type choiceEvent struct {
	index int
	*pb.Event
}

// choices runs generations side by side and merges their events. Leaving the
// loop stops all of them.
func (g *Gateway) choices(ctx context.Context, req *request, gens []*pb.Generation) iter.Seq[choiceEvent] {
	return func(yield func(choiceEvent) bool) {
		if len(gens) == 1 { // nothing to merge
			for e := range g.run(ctx, req, gens[0]) {
				if !yield(choiceEvent{0, e}) {
					return
				}
			}
			return
		}
		ctx, cancel := context.WithCancelCause(ctx)
		merged, left := make(chan choiceEvent), make(chan struct{})
		var work sync.WaitGroup
		defer work.Wait()
		defer cancel(errClient)
		defer close(left)
		for i, gen := range gens {
			work.Go(func() {
				for e := range g.run(ctx, req, gen) {
					select {
					case merged <- choiceEvent{i, e}:
					case <-left:
						return
					}
				}
			})
		}
		for open := len(gens); open > 0; {
			e := <-merged
			if terminal(e.Event) {
				open--
			}
			if !yield(e) {
				return
			}
		}
	}
}

// wholeChat collects the answer of a request that does not stream.
func wholeChat(events iter.Seq[choiceEvent], head chatHead, n int) (*chatCompletion, *problem) {
	texts := make([]strings.Builder, n)
	choices := make([]chatChoice, n)
	var sum tally
	for e := range events {
		choice, text := &choices[e.index], &texts[e.index]
		switch ev := e.GetEvent().(type) {
		case *pb.Event_Accepted:
			head.accept(ev.Accepted)
		case *pb.Event_Token:
			text.WriteString(ev.Token.GetDelta().GetContent())
			choice.Message.Reasoning += ev.Token.GetDelta().GetReasoning()
			if call := ev.Token.GetDelta().GetToolCall(); call != nil {
				choice.Message.ToolCalls = append(choice.Message.ToolCalls, toolCallOf(call, false))
			}
			if lp := logprobOf(ev.Token); lp != nil {
				if choice.Logprobs == nil {
					choice.Logprobs = &chatLogprobs{}
				}
				choice.Logprobs.Content = append(choice.Logprobs.Content, *lp)
			}
		case *pb.Event_Complete:
			text.WriteString(ev.Complete.GetText())
			choice.Message.ToolCalls = append(choice.Message.ToolCalls, toolCallsOf(ev.Complete.GetToolCalls(), false)...)
			choice.FinishReason = ev.Complete.GetFinishReason()
			sum.add(ev.Complete.GetUsage(), ev.Complete.GetTimings())
		default:
			if p := endedEarly(e.Event); p != nil {
				return nil, p
			}
		}
	}
	for i := range choices {
		choices[i].Index = i
		m := &choices[i].Message
		m.Role = "assistant"
		if text := texts[i].String(); text != "" || len(m.ToolCalls) == 0 {
			m.Content = &text
		}
	}
	return &chatCompletion{
		ID: head.id, Object: "chat.completion", Created: head.created, Model: head.model, Fingerprint: head.fingerprint,
		Choices: choices, Usage: sum.usage, Timings: sum.timings,
	}, nil
}

// endedEarly makes an error of a terminal that is not complete, for doors that
// have no word for stopped. Other events give nil.
func endedEarly(e *pb.Event) *problem {
	switch e := e.GetEvent().(type) {
	case *pb.Event_Error:
		return problemFrom(e.Error)
	case *pb.Event_Stopped:
		switch e.Stopped.GetReason() {
		case "drain":
			return &problem{code: codeDraining, retryable: true, message: "The gateway shut down before the answer was complete."}
		case "deadline":
			return &problem{code: codeDeadline, retryable: true, message: "The answer was not complete at its deadline."}
		}
		return &problem{code: codeStopped, message: "The answer was stopped before it was complete."}
	}
	return nil
}
