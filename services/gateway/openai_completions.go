package gateway

import (
	"encoding/json"
	"iter"
	"net/http"
	"time"
	"unicode/utf8"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// The OpenAI completions API: text that is continued as it is.

// completion is a whole answer, or one event of a stream.
type completion struct {
	ID          string             `json:"id"`
	Object      string             `json:"object"`
	Created     int64              `json:"created"`
	Model       string             `json:"model"`
	Fingerprint string             `json:"system_fingerprint"`
	Choices     []completionChoice `json:"choices"`
	Usage       json.RawMessage    `json:"usage,omitempty"`
	Timings     *chatTimings       `json:"timings,omitempty"`
}

type completionChoice struct {
	Text         string              `json:"text"`
	Index        int                 `json:"index"`
	Logprobs     *completionLogprobs `json:"logprobs"`
	FinishReason *string             `json:"finish_reason"`
}

// completionLogprobs are parallel lists, one element per token. Offsets count
// characters from the beginning of the choice's text.
type completionLogprobs struct {
	Tokens   []string             `json:"tokens"`
	Logprobs []float32            `json:"token_logprobs"`
	Top      []map[string]float32 `json:"top_logprobs"`
	Offsets  []int                `json:"text_offset"`
}

// completionText is what a choice has said so far.
type completionText struct {
	completionChoice
	characters int
}

// take adds a token and returns its own part.
func (c *completionText) take(t *pb.Token) completionChoice {
	text := t.GetDelta().GetContent()
	part := completionChoice{Text: text, Index: c.Index}
	if lp := t.GetLogprob(); lp != nil {
		top := map[string]float32{}
		for _, alt := range lp.GetTop() {
			top[alt.GetText()] = alt.GetLogprob()
		}
		part.Logprobs = &completionLogprobs{
			Tokens: []string{text}, Logprobs: []float32{lp.GetLogprob()},
			Top: []map[string]float32{top}, Offsets: []int{c.characters},
		}
		c.addLogprobs(part.Logprobs)
	}
	c.say(text)
	return part
}

func (c *completionText) addLogprobs(l *completionLogprobs) {
	if c.Logprobs == nil {
		c.Logprobs = &completionLogprobs{}
	}
	own := c.Logprobs
	own.Tokens, own.Logprobs = append(own.Tokens, l.Tokens...), append(own.Logprobs, l.Logprobs...)
	own.Top, own.Offsets = append(own.Top, l.Top...), append(own.Offsets, l.Offsets...)
}

func (c *completionText) say(text string) {
	c.Text += text
	c.characters += utf8.RuneCountInString(text)
}

// completions serves POST /v1/completions.
func (g *Gateway) completions(w http.ResponseWriter, r *http.Request) {
	c, p := g.readCompletion(w, r)
	ctx, req, leave, ok := g.enter(w, r, "openai", c.generation, p)
	defer leave()
	if !ok {
		return
	}
	a := &completionAnswer{request: c, counted: make([]bool, len(c.prompts)), head: chatHead{id: "cmpl-" + req.id, created: time.Now().Unix()}}
	for i := range c.choices() {
		a.texts = append(a.texts, completionText{completionChoice: completionChoice{Index: i}})
		a.texts[i].say(c.prefix(i))
	}
	events := g.choices(ctx, req, c.generations())
	if c.stream {
		a.stream(newSSEWriter(w, g.config.Limits.WriteTimeout), events)
		return
	}
	a.whole(w, events)
}

// readCompletion reads and checks a request; with a problem it is empty.
func (g *Gateway) readCompletion(w http.ResponseWriter, r *http.Request) (*completionRequest, *problem) {
	data, p := g.readBody(w, r)
	if p != nil {
		return &completionRequest{}, p
	}
	c, err := parseCompletion(data)
	if err != nil {
		return &completionRequest{}, problemOf(err)
	}
	return c, nil
}

// completionAnswer is the answer to one request in the making.
type completionAnswer struct {
	request *completionRequest
	head    chatHead
	texts   []completionText
	counted []bool // prompts whose tokens are in sum
	sum     tally
}

// whole collects the answer and writes it.
func (a *completionAnswer) whole(w http.ResponseWriter, events iter.Seq[choiceEvent]) {
	for e := range events {
		if p := endedEarly(e.Event); p != nil {
			p.about("prompt").write(w)
			return
		}
		a.parts(e)
	}
	doc := a.document()
	for _, t := range a.texts {
		doc.Choices = append(doc.Choices, t.completionChoice)
	}
	doc.Usage, _ = json.Marshal(a.sum.usage)
	doc.Timings = &a.sum.timings
	writeJSON(w, http.StatusOK, doc)
}

// parts takes an event in and returns what a stream says of it.
func (a *completionAnswer) parts(e choiceEvent) []completionChoice {
	t := &a.texts[e.index]
	switch ev := e.GetEvent().(type) {
	case *pb.Event_Accepted:
		a.head.accept(ev.Accepted)
		return []completionChoice{{Index: e.index, Text: t.Text}}
	case *pb.Event_Token:
		part := t.take(ev.Token)
		if part.Text == "" && part.Logprobs == nil {
			return nil
		}
		return []completionChoice{part}
	case *pb.Event_Complete:
		reason := ev.Complete.GetFinishReason()
		t.say(ev.Complete.GetText())
		t.FinishReason = &reason
		a.count(e.index, ev.Complete)
		return []completionChoice{{Index: e.index, Text: ev.Complete.GetText(), FinishReason: &reason}}
	}
	return nil
}

// count adds up what a choice cost. The prompt of several choices counts once.
func (a *completionAnswer) count(choice int, c *pb.Complete) {
	before := a.sum.usage.PromptTokens
	a.sum.add(c.GetUsage(), c.GetTimings())
	if at := choice / a.request.n; !a.counted[at] {
		a.counted[at] = true
		before += c.GetUsage().GetPromptTokens()
	}
	a.sum.usage.PromptTokens = before
	a.sum.usage.TotalTokens = before + a.sum.usage.CompletionTokens
}

func (a *completionAnswer) document() *completion {
	return &completion{
		ID: a.head.id, Object: "text_completion", Created: a.head.created,
		Model: a.head.model, Fingerprint: a.head.fingerprint, Choices: []completionChoice{},
	}
}

// stream writes the answer as server-sent events, as they come.
func (a *completionAnswer) stream(sse *sseWriter, events iter.Seq[choiceEvent]) {
	defer sse.close()
	defer sse.keepAlive()()
	for e := range events {
		if p := endedEarly(e.Event); p != nil {
			sse.fail(p.about("prompt"))
			return
		}
		for _, part := range a.parts(e) {
			doc := a.document()
			doc.Choices = append(doc.Choices, part)
			if a.request.includeUsage {
				doc.Usage = json.RawMessage("null")
			}
			if sse.event(doc) != nil {
				return // the client is gone; leaving the loop stops the generations
			}
		}
	}
	if a.request.includeUsage {
		last := a.document()
		last.Usage, _ = json.Marshal(a.sum.usage)
		last.Timings = &a.sum.timings
		if sse.event(last) != nil {
			return
		}
	}
	sse.done()
}
