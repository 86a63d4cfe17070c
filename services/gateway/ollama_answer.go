package gateway

import (
	"context"
	"errors"
	"net/http"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// ollamaReply is one object of an answer: text that was added, or the end. It
// has response from /api/generate and message from /api/chat.
type ollamaReply struct {
	Model      string         `json:"model"`
	CreatedAt  string         `json:"created_at"`
	Response   *string        `json:"response,omitempty"`
	Message    *ollamaMessage `json:"message,omitempty"`
	Done       bool           `json:"done"`
	DoneReason string         `json:"done_reason,omitempty"`
	*ollamaDurations
}

type ollamaMessage struct {
	Role    string       `json:"role"`
	Content string       `json:"content"`
	Calls   []ollamaCall `json:"tool_calls,omitempty"`
}

// ollamaDurations are in nanoseconds.
type ollamaDurations struct {
	Total       int64  `json:"total_duration"`
	Load        int64  `json:"load_duration"` // the wait for a place
	PromptCount uint32 `json:"prompt_eval_count"`
	Prompt      int64  `json:"prompt_eval_duration"`
	Count       uint32 `json:"eval_count"`
	Predicted   int64  `json:"eval_duration"`
}

func nanoseconds(ms float64) int64 { return int64(ms * float64(time.Millisecond)) }

// ollamaAnswer writes the answer to one request.
type ollamaAnswer struct {
	request *ollamaRequest
	chat    bool // else generate
	began   time.Time
	lines   *lineWriter
	text    string // collected, when the client does not stream
	calls   []ollamaCall
}

// reply makes an object that adds text.
func (a *ollamaAnswer) reply(text string) *ollamaReply {
	r := &ollamaReply{Model: a.request.model, CreatedAt: time.Now().UTC().Format(time.RFC3339Nano)}
	if a.chat {
		r.Message = &ollamaMessage{Role: "assistant", Content: text}
	} else {
		r.Response = &text
	}
	return r
}

// add sends or collects text.
func (a *ollamaAnswer) add(text string) error {
	if text == "" {
		return nil
	}
	if !a.request.stream {
		a.text += text
		return nil
	}
	return a.lines.write(a.reply(text))
}

// call sends or collects calls.
func (a *ollamaAnswer) call(calls []ollamaCall) error {
	if len(calls) == 0 || !a.chat {
		return nil
	}
	if !a.request.stream {
		a.calls = append(a.calls, calls...)
		return nil
	}
	r := a.reply("")
	r.Message.Calls = calls
	return a.lines.write(r)
}

// end sends the last object.
func (a *ollamaAnswer) end(reason string, c *pb.Complete) {
	last := a.reply(a.text)
	last.Done, last.DoneReason = true, reason
	if reason == "tool_calls" {
		last.DoneReason = "stop" // Ollama's clients know no other word
	}
	if a.chat {
		last.Message.Calls = a.calls
	}
	if c != nil {
		u, t := c.GetUsage(), c.GetTimings()
		last.ollamaDurations = &ollamaDurations{
			Total: int64(time.Since(a.began)), Load: nanoseconds(t.GetQueueMs()),
			PromptCount: u.GetPromptTokens(), Prompt: nanoseconds(t.GetPromptMs()),
			Count: u.GetCompletionTokens(), Predicted: nanoseconds(t.GetPredictedMs()),
		}
	}
	if !a.request.stream {
		writeJSON(a.lines.w, http.StatusOK, last)
		return
	}
	_ = a.lines.write(last) // it was the last
}

func (g *Gateway) ollamaGenerate(w http.ResponseWriter, r *http.Request) {
	g.ollamaAnswer(w, r, false, readOllamaPrompt)
}

func (g *Gateway) ollamaChat(w http.ResponseWriter, r *http.Request) {
	g.ollamaAnswer(w, r, true, readOllamaMessages(g.config.Limits.Messages))
}

// ollamaAnswer serves both doors.
func (g *Gateway) ollamaAnswer(w http.ResponseWriter, r *http.Request, chat bool, input func(*strictjson.Reader, *ollamaRequest)) {
	data, p := g.readBody(w, r)
	q := &ollamaRequest{}
	if p == nil {
		var err error
		if q, err = parseOllama(data, input); err != nil {
			q, p = &ollamaRequest{}, problemOf(err)
		}
	}
	ctx, req, leave, ok := g.enter(w, r, "ollama", q.generation, p)
	defer leave()
	if !ok {
		return
	}
	a := &ollamaAnswer{request: q, chat: chat, began: req.began, lines: newLineWriter(w, g.config.Limits.WriteTimeout)}
	defer a.lines.close()
	if q.load {
		g.ollamaLoad(ctx, a)
		return
	}
	for e := range g.run(ctx, req, q.generation) {
		if p := endedEarly(e); p != nil {
			a.lines.fail(p)
			return
		}
		switch ev := e.GetEvent().(type) {
		case *pb.Event_Token:
			d := ev.Token.GetDelta()
			if errors.Join(a.add(d.GetContent()), a.call(ollamaCallsOf(d.GetToolCall()))) != nil {
				return // the client is gone; leaving the loop stops the generation
			}
		case *pb.Event_Complete:
			if errors.Join(a.add(ev.Complete.GetText()), a.call(ollamaCallsOf(ev.Complete.GetToolCalls()...))) == nil {
				a.end(ev.Complete.GetFinishReason(), ev.Complete)
			}
		}
	}
}

// ollamaLoad answers a request without input, by which clients load models.
func (g *Gateway) ollamaLoad(ctx context.Context, a *ollamaAnswer) {
	state, err := g.cluster.state(ctx)
	switch {
	case err != nil:
		errNoCoordinator.write(a.lines.w)
	case findModel(state.GetModels(), a.request.model) == nil:
		noSuchModel(a.request.model, "model").write(a.lines.w)
	default:
		a.end("load", nil)
	}
}

type ollamaEmbeddings struct {
	Model       string      `json:"model"`
	Embeddings  [][]float32 `json:"embeddings"`
	Total       int64       `json:"total_duration"`
	Load        int64       `json:"load_duration"`
	PromptCount uint32      `json:"prompt_eval_count"`
}

// parseOllamaEmbed reads a request of /api/embed.
func parseOllamaEmbed(data []byte) (*ollamaRequest, []promptInput, error) {
	var inputs []promptInput
	q, err := parseOllama(data, func(r *strictjson.Reader, _ *ollamaRequest) {
		refuseMembers(r, "is not supported: embeddings have the model's own width", "dimensions")
		if cut, _ := r.Bool("truncate"); cut {
			r.Refuse("truncate", "must be false: an input that is too long is an error")
		}
		for _, text := range r.Strings("input", embeddingInputs, maxText) {
			inputs = append(inputs, promptInput{text: text})
		}
	})
	if err != nil {
		return nil, nil, err
	}
	q.generation.Sampling, q.generation.Stop = &pb.Sampling{}, nil
	q.generation.Pooling = pb.Pooling_POOLING_OWN
	return q, inputs, nil
}

func (g *Gateway) ollamaEmbed(w http.ResponseWriter, r *http.Request) {
	data, p := g.readBody(w, r)
	q, inputs := &ollamaRequest{}, []promptInput(nil)
	if p == nil {
		var err error
		if q, inputs, err = parseOllamaEmbed(data); err != nil {
			q, p = &ollamaRequest{}, problemOf(err)
		}
	}
	ctx, req, leave, ok := g.enter(w, r, "ollama", q.generation, p)
	defer leave()
	if !ok {
		return
	}
	if len(inputs) == 0 {
		a := &ollamaAnswer{request: q, lines: newLineWriter(w, g.config.Limits.WriteTimeout)}
		q.stream = false
		g.ollamaLoad(ctx, a)
		return
	}
	done, p := g.embed(ctx, req, q.generation, inputs)
	if p != nil {
		p.about("input").write(w)
		return
	}
	writeJSON(w, http.StatusOK, ollamaEmbeddings{
		Model: q.model, Embeddings: done.vectors, Total: int64(time.Since(req.began)), PromptCount: done.tokens,
	})
}
