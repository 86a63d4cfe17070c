package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// events opens a stream of server-sent events and returns a reader of it: the id
// and the frame of each event, false at the end.
func (f *front) events(t *testing.T, body string, headers ...string) (next func() (string, frame, bool), cut func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/streaming", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := httpClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("status %d, %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	lines := bufio.NewScanner(resp.Body)
	return func() (id string, got frame, ok bool) {
		for lines.Scan() {
			switch line := lines.Text(); {
			case strings.HasPrefix(line, "id: "):
				id = line[4:]
			case strings.HasPrefix(line, "data: "):
				if err := json.Unmarshal([]byte(line[6:]), &got); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
			case line == "" && got != nil:
				return id, got, true
			}
		}
		return "", nil, false
	}, func() { cancel(); resp.Body.Close() }
}

// The frames of the rich protocol as events; a request that comes again with the
// last id goes on from there.
func TestRichSSE(t *testing.T) {
	t.Parallel()
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) { g.story(60) })
	id := resumableID(1)
	body := fmt.Sprintf(`{"v":1,"type":"generate","id":%q,"prompt":"x","resumable":true}`, id)
	var s transcript
	last := ""
	for stage := uint64(1); !s.ended(); stage++ {
		var headers []string
		if last != "" {
			headers = []string{lastEventHeader, last}
		}
		next, cut := f.events(t, body, headers...)
		for !s.ended() && s.seq < 25*stage {
			eventID, got, ok := next()
			if !ok {
				t.Fatalf("the stream ended after token %d", s.seq)
			}
			if err := s.add(got); err != nil {
				t.Fatal(err)
			}
			if got["type"] == typeToken {
				last = eventID
				if want := fmt.Sprint(s.seq); eventID != want {
					t.Fatalf("event id %q, want %s", eventID, want)
				}
			}
		}
		cut()
	}
	if s.seq != 60 || s.terminal["type"] != typeComplete || s.accepted != 3 {
		t.Errorf("%d tokens, accepted %d times, then %v", s.seq, s.accepted, s.terminal)
	}
	if g := f.next(t); g.GetPrompt() != "x" || len(f.fake.started) != 0 {
		t.Errorf("more than one generation ran")
	}
}

// The shortest request: no frame around it, no id; leaving stops it.
func TestRichSSEStopsWithItsClient(t *testing.T) {
	f := serve(t)
	f.fake.set((*fakeGeneration).endless)
	next, cut := f.events(t, `{"prompt":"x"}`)
	_, accepted, _ := next()
	if accepted["type"] != typeAccepted || !strings.HasPrefix(accepted["id"].(string), "gen-") {
		t.Fatalf("the first event is %v", accepted)
	}
	next()
	cut()
	f.next(t).wantStop(t, "client")
}

// A generation that is resumable outlives its connection, until it is cancelled.
func TestRichSSEIsCancelled(t *testing.T) {
	f := serve(t)
	f.fake.set((*fakeGeneration).endless)
	next, cut := f.events(t, `{"prompt":"x","resumable":true}`)
	_, accepted, _ := next()
	id := accepted["id"].(string)
	cut()
	again, _ := f.events(t, fmt.Sprintf(`{"v":1,"type":"resume","id":%q,"after_seq":0}`, id))
	var s transcript
	stopped := false
	for !s.ended() {
		_, got, ok := again()
		if !ok {
			t.Fatal("the stream ended")
		}
		if err := s.add(got); err != nil {
			t.Fatal(err)
		}
		if s.seq > 100 && !stopped {
			stopped = true
			if status, _, body := f.post(t, "/v1/cancel/"+id, ""); status != 200 {
				t.Fatalf("cancel: %d, %s", status, body)
			}
		}
	}
	if s.terminal["type"] != typeStopped || s.terminal["reason"] != "client" {
		t.Errorf("ended with %v", s.terminal)
	}
	f.next(t).wantStop(t, "client")
}

func TestRichSSERefusals(t *testing.T) {
	f := serve(t)
	for name, c := range map[string]struct {
		body    string
		headers []string
		status  int
		param   string
	}{
		"not JSON":          {`x`, nil, 400, ""},
		"no prompt":         {`{}`, nil, 400, "prompt"},
		"wrong version":     {`{"v":2,"prompt":"x"}`, nil, 400, "v"},
		"another frame":     {`{"v":1,"type":"stop","id":"x"}`, nil, 400, "type"},
		"control":           {`{"v":1,"type":"control","id":"x"}`, nil, 400, "type"},
		"unknown option":    {`{"prompt":"x","shine":1}`, nil, 400, "shine"},
		"guessable id":      {`{"prompt":"x","id":"1","resumable":true}`, nil, 400, "id"},
		"unknown to resume": {`{"v":1,"type":"resume","id":"x","after_seq":0}`, nil, 404, "id"},
		"unknown, again":    {`{"prompt":"x","id":"generation-00000000","resumable":true}`, []string{lastEventHeader, "5"}, 404, "id"},
		"no number":         {`{"prompt":"x","id":"generation-00000000","resumable":true}`, []string{lastEventHeader, "-5"}, 400, lastEventHeader},
		"not acceptable":    {`{"prompt":"x"}`, []string{"Accept", "application/json"}, 406, "Accept"},
	} {
		status, _, body := f.post(t, "/streaming", c.body, c.headers...)
		e := parseError(t, body).Error
		param := ""
		if e.Param != nil {
			param = *e.Param
		}
		if status != c.status || param != c.param {
			t.Errorf("%s: status %d, %s", name, status, body)
		}
	}
	f.fake.set(func(g *fakeGeneration) { g.send(g.number, errorEvent("model_not_found", "model", false)) })
	if status, _, body := f.post(t, "/streaming", `{"prompt":"x"}`); status != 404 || parseError(t, body).Error.Code != "model_not_found" {
		t.Errorf("an unknown model: status %d, %s", status, body)
	}
}

// A stream that was resumed elsewhere says so and ends.
func TestRichSSEIsTakenOver(t *testing.T) {
	f := serve(t)
	f.fake.set((*fakeGeneration).silent)
	next, _ := f.events(t, fmt.Sprintf(`{"v":1,"type":"generate","id":%q,"prompt":"x","resumable":true}`, resumableID(1)))
	next()
	p := f.rich(t)
	p.send(fmt.Sprintf(`{"v":1,"type":"resume","id":%q,"after_seq":0}`, resumableID(1)))
	if got := p.read(); got["type"] != typeAccepted {
		t.Fatalf("got %v", got)
	}
	if _, got, _ := next(); got["type"] != typeError || got["code"] != codeResumedElsewhere {
		t.Errorf("the old stream got %v", got)
	}
	if _, _, ok := next(); ok {
		t.Error("the old stream goes on")
	}
	p.send(fmt.Sprintf(`{"v":1,"type":"stop","id":%q}`, resumableID(1)))
	var s transcript
	p.follow(&s, s.ended)
	for end := time.Now().Add(patience); f.shelf.size() > 0; time.Sleep(time.Millisecond) {
		p.send(`{"v":1,"type":"ping"}`)
		p.read() // answers the ping of the server that confirms the end
		if time.Now().After(end) {
			t.Fatal("an answer that was received whole is still kept")
		}
	}
}
