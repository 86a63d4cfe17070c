package systemtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// client asks a gateway.
type client struct {
	url, key string
	dialer   func(ctx context.Context, network, addr string) (net.Conn, error) // nil: from here
}

func (c *system) client() client { return client{c.url, c.key, c.dialer} }

// ask makes a request with a JSON body, or a GET without one. The caller closes
// the answer.
func (c client) ask(ctx context.Context, path string, body any) (*http.Response, error) {
	method, data := http.MethodGet, []byte(nil)
	if body != nil {
		method = http.MethodPost
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	// A transport of its own: tests look at connections that close.
	transport := &http.Transport{DisableKeepAlives: true, DialContext: c.dialer}
	return transport.RoundTrip(req)
}

// read decodes the JSON answer to ask.
func (c client) read(ctx context.Context, path string, body, answer any) error {
	resp, err := c.ask(ctx, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, resp.Status, data)
	}
	return json.Unmarshal(data, answer)
}

// object is a JSON object.
type object = map[string]any

// chat is a request of the OpenAI API.
func chat(prompt string, more object) object {
	body := object{"model": "tiny", "messages": []object{{"role": "user", "content": prompt}}}
	for k, v := range more {
		body[k] = v
	}
	return body
}

// completion is the answer to a chat that is not streamed.
type completion struct {
	Choices []struct {
		Message struct {
			Content   string
			ToolCalls []struct {
				Function struct{ Name, Arguments string }
			} `json:"tool_calls"`
		} `json:"message"`
		FinishReason string `json:"finish_reason"`
	} `json:"choices"`
	Usage struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
	} `json:"usage"`
}

// complete asks for one whole answer.
func (c client) complete(ctx context.Context, body object) (completion, error) {
	var out completion
	err := c.read(ctx, "/v1/chat/completions", body, &out)
	if err == nil && len(out.Choices) != 1 {
		err = fmt.Errorf("%d choices", len(out.Choices))
	}
	return out, err
}

// chunk is one event of a streamed chat.
type chunk struct {
	Choices []struct {
		Delta        struct{ Content string } `json:"delta"`
		FinishReason *string                  `json:"finish_reason"`
	} `json:"choices"`
	Error *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// streamed is what came of a streamed chat.
type streamed struct {
	text     string
	finished int      // chunks with a finish reason
	errors   []string // codes of error events
	done     int      // [DONE] lines
}

// stream asks for a streamed answer and calls each for every chunk; an error of
// each leaves the stream. It returns after the stream's end.
func (c client) stream(ctx context.Context, body object, each func(chunk) error) (streamed, error) {
	body["stream"] = true
	var s streamed
	resp, err := c.ask(ctx, "/v1/chat/completions", body)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return s, fmt.Errorf("%s: %s", resp.Status, text)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			s.done++
			continue
		}
		var ch chunk
		if err := json.Unmarshal([]byte(data), &ch); err != nil {
			return s, fmt.Errorf("event %q: %w", data, err)
		}
		s.add(ch)
		if each == nil {
			continue
		}
		if err := each(ch); err != nil {
			return s, err
		}
	}
	return s, lines.Err()
}

func (s *streamed) add(ch chunk) {
	if ch.Error != nil {
		s.errors = append(s.errors, ch.Error.Code)
	}
	for _, choice := range ch.Choices {
		s.text += choice.Delta.Content
		if choice.FinishReason != nil {
			s.finished++
		}
	}
}

// message is any message of the plain WebSocket protocol.
type message struct {
	Type         string `json:"type"`
	Token        string `json:"token"`
	Seq          int    `json:"seq"`
	Text         string `json:"text"`
	FinishReason string `json:"finishReason"`
	Code         string `json:"code"`
	Message      string `json:"message"`
	Retryable    bool   `json:"retryable"`
	Usage        struct {
		CompletionTokens int `json:"completionTokens"`
	} `json:"usage"`
}

// socket is a WebSocket that speaks the plain protocol.
type socket struct{ conn *websocket.Conn }

// dial opens a socket; it is closed with the test.
func (c client) dial(ctx context.Context, t *testing.T) *socket {
	t.Helper()
	opts := &websocket.DialOptions{HTTPHeader: http.Header{}}
	if c.key != "" {
		opts.HTTPHeader.Set("Authorization", "Bearer "+c.key)
	}
	conn, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(c.url, "http")+"/streaming", opts)
	if err != nil {
		t.Fatalf("open socket: %v", err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	conn.SetReadLimit(1 << 20)
	return &socket{conn}
}

// send writes a request.
func (s *socket) send(ctx context.Context, request object) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return s.conn.Write(ctx, websocket.MessageText, data)
}

// receive reads one message.
func (s *socket) receive(ctx context.Context) (message, error) {
	var m message
	_, data, err := s.conn.Read(ctx)
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(data, &m)
}

// answer reads up to the terminal message, holds the sequence numbers to their
// rule and calls each for every token.
func (s *socket) answer(ctx context.Context, each func(message) error) (text string, end message, err error) {
	for seq := 1; ; seq++ {
		m, err := s.receive(ctx)
		switch {
		case err != nil:
			return text, m, err
		case m.Type != "token":
			return text, m, nil
		case m.Seq != seq:
			return text, m, fmt.Errorf("token %d came where %d was due", m.Seq, seq)
		}
		text += m.Token
		if each == nil {
			continue
		}
		if err := each(m); err != nil {
			return text, m, err
		}
	}
}

// errEnough leaves an answer that is not read to its end.
var errEnough = errors.New("read enough")
