package gateway

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"sync"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// ssePing is how often a silent stream shows that it lives, sseLook how often that
// is looked at.
const (
	ssePing = 15 * time.Second
	sseLook = ssePing / 3
)

// chatStream writes one answer as server-sent events. The status is 200 only
// once the coordinator has accepted the request; what fails later is an error
// event, and the stream ends without [DONE].
type chatStream struct {
	request *chatRequest
	head    chatHead
	sse     *sseWriter
	started []bool // choices whose role was sent
	sum     tally

	frames []textFrame // of choices
	frame  []byte      // the chunk being written
}

// textFrame is what stands around the text of a token.
type textFrame struct{ before, after []byte }

func newChatStream(w http.ResponseWriter, c *chatRequest, head chatHead, timeout time.Duration) *chatStream {
	return &chatStream{request: c, head: head, started: make([]bool, c.choices), frames: make([]textFrame, c.choices), sse: newSSEWriter(w, timeout)}
}

func (s *chatStream) serve(events iter.Seq[choiceEvent]) {
	defer s.sse.close()
	defer s.sse.keepAlive()()
	for e := range events {
		if p := endedEarly(e.Event); p != nil {
			s.sse.fail(p)
			return
		}
		if s.write(e) != nil {
			return // the client is gone; leaving the loop stops the generation
		}
	}
	if s.request.includeUsage {
		last := s.chunk(nil)
		last.Usage, _ = json.Marshal(s.sum.usage)
		last.Timings = &s.sum.timings
		if s.sse.event(last) != nil {
			return
		}
	}
	s.sse.done()
}

// write sends what an event adds to the answer.
func (s *chatStream) write(e choiceEvent) error {
	choice := chunkChoice{Index: e.index}
	switch ev := e.GetEvent().(type) {
	case *pb.Event_Accepted:
		return s.start(e.index, ev.Accepted)
	case *pb.Event_Progress:
		return s.sse.interrupted(ev.Progress)
	case *pb.Event_Token:
		text, lp := ev.Token.GetDelta().GetContent(), logprobOf(ev.Token)
		if call := ev.Token.GetDelta().GetToolCall(); call != nil {
			choice.Delta.ToolCalls = []toolCall{toolCallOf(call, true)}
			return s.sse.event(s.chunk(&choice))
		}
		if thought := ev.Token.GetDelta().GetReasoning(); thought != "" {
			choice.Delta.Reasoning = thought
			if lp != nil {
				choice.Logprobs = &chatLogprobs{Content: []tokenLogprob{*lp}}
			}
			return s.sse.event(s.chunk(&choice))
		}
		if text == "" && lp == nil {
			return nil
		}
		if lp == nil && !s.request.obfuscate {
			return s.text(e.index, text)
		}
		choice.Delta.Content = &text
		if lp != nil {
			choice.Logprobs = &chatLogprobs{Content: []tokenLogprob{*lp}}
		}
		return s.sse.event(s.chunk(&choice))
	case *pb.Event_Complete:
		return s.finish(choice, ev.Complete)
	}
	return nil
}

// text sends the chunk of a token that has nothing but its text. All of them
// are equal but for that, so the rest is encoded once.
func (s *chatStream) text(index int, text string) error {
	f := &s.frames[index]
	if f.before == nil {
		mark := "\x00" // encoded as \u0000, which nothing else in the chunk contains
		whole, err := json.Marshal(s.chunk(&chunkChoice{Index: index, Delta: chatDelta{Content: &mark}}))
		if err != nil {
			return err
		}
		before, after, ok := bytes.Cut(whole, []byte(`"\u0000"`))
		if !ok {
			return errors.New("a chunk does not hold its text")
		}
		f.before, f.after = append([]byte("data: "), before...), append(after, "\n\n"...)
	}
	s.frame = appendQuoted(append(s.frame[:0], f.before...), text)
	s.frame = append(s.frame, f.after...)
	return s.sse.send(s.frame)
}

// start sends the status with the first choice, and each choice's role.
func (s *chatStream) start(index int, a *pb.Accepted) error {
	s.head.accept(a)
	clear(s.frames)
	if s.started[index] {
		return nil
	}
	s.started[index] = true
	empty := ""
	return s.sse.event(s.chunk(&chunkChoice{Index: index, Delta: chatDelta{Role: "assistant", Content: &empty}}))
}

func (s *chatStream) finish(choice chunkChoice, c *pb.Complete) error {
	if text := c.GetText(); text != "" {
		held := choice
		held.Delta.Content = &text
		if err := s.sse.event(s.chunk(&held)); err != nil {
			return err
		}
	}
	if calls := toolCallsOf(c.GetToolCalls(), true); len(calls) > 0 {
		made := choice
		made.Delta.ToolCalls = calls
		if err := s.sse.event(s.chunk(&made)); err != nil {
			return err
		}
	}
	var own tally
	own.add(c.GetUsage(), c.GetTimings())
	s.sum.add(c.GetUsage(), c.GetTimings())
	reason := c.GetFinishReason()
	choice.FinishReason = &reason
	chunk := s.chunk(&choice)
	chunk.Timings = &own.timings
	return s.sse.event(chunk)
}

// chunk makes the frame around a choice; nil is the chunk without choices.
func (s *chatStream) chunk(choice *chunkChoice) *chatChunk {
	c := &chatChunk{
		ID: s.head.id, Object: "chat.completion.chunk", Created: s.head.created,
		Model: s.head.model, Fingerprint: s.head.fingerprint, Choices: []chunkChoice{},
	}
	if s.request.includeUsage {
		c.Usage = json.RawMessage("null")
	}
	if choice != nil {
		c.Choices = append(c.Choices, *choice)
		if s.request.obfuscate && choice.Delta.Content != nil {
			c.Obfuscation = padding(len(*choice.Delta.Content))
		}
	}
	return c
}

// padding returns random letters that bring a text of n bytes to a multiple of
// 32, so that the size of an encrypted chunk says little about its text.
func padding(n int) string {
	const unit = 32
	return (rand.Text() + rand.Text())[:unit-n%unit]
}

// sseWriter writes events and comments. Each write has a deadline: a client that
// reads nothing loses the stream.
type sseWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration

	mu      sync.Mutex // guards following, and writing
	begun   bool
	written time.Time
}

func newSSEWriter(w http.ResponseWriter, timeout time.Duration) *sseWriter {
	return &sseWriter{w: w, control: http.NewResponseController(w), timeout: timeout}
}

// event sends one data event, and the headers before the first.
func (s *sseWriter) event(doc any) error {
	data, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return s.send([]byte("data: " + string(data) + "\n\n"))
}

// interrupted tells those who look at the stream that the answer pauses: clients
// skip comments.
func (s *sseWriter) interrupted(p *pb.Progress) error {
	if phase := p.GetPhase(); phase == phaseRecovering || phase == phaseWaiting {
		return s.send([]byte(": " + phase + "\n\n"))
	}
	return nil
}

// done says that the answer is whole.
func (s *sseWriter) done() { _ = s.send([]byte("data: [DONE]\n\n")) }

// close lifts the deadline, which would outlive this answer on its connection.
func (s *sseWriter) close() { _ = s.control.SetWriteDeadline(time.Time{}) }

// fail answers with a status when nothing was sent yet, else with an error event.
func (s *sseWriter) fail(p *problem) {
	s.mu.Lock()
	begun := s.begun
	s.mu.Unlock()
	if !begun {
		p.write(s.w)
		return
	}
	_ = s.event(p.body())
}

func (s *sseWriter) send(text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun {
		s.begun = true
		h := s.w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Accel-Buffering", "no")
		s.w.WriteHeader(http.StatusOK)
	}
	s.written = time.Now()
	if err := s.control.SetWriteDeadline(s.written.Add(s.timeout)); err != nil {
		return err
	}
	if _, err := s.w.Write(text); err != nil {
		return err
	}
	return s.control.Flush()
}

// keepAlive sends a comment whenever the stream has been silent for a while, by a
// timer: thousands of streams need no goroutine each for it. The returned function
// ends it, and waits for a comment that is being written.
func (s *sseWriter) keepAlive() (end func()) {
	var mu sync.Mutex // guards following
	var timer *time.Timer
	ended := false
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(sseLook, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended && s.pingWhenSilent() == nil {
			timer.Reset(sseLook)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
		timer.Stop()
	}
}

// pingWhenSilent sends a comment if nothing was sent for ssePing. A client that
// is gone shows to the reader of the request.
func (s *sseWriter) pingWhenSilent() error {
	s.mu.Lock()
	silent := s.begun && time.Since(s.written) >= ssePing
	s.mu.Unlock()
	if !silent {
		return nil
	}
	return s.send([]byte(": ping\n\n"))
}
