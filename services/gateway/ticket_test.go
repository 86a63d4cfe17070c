package gateway

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

func TestTicketsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTickets()
		for name, c := range map[string]struct {
			wait time.Duration
			ok   bool
		}{"in time": {ticketLife - 1, true}, "too late": {ticketLife, false}} {
			text, _ := k.issue(caller{tenant: "alice"}, time.Now())
			time.Sleep(c.wait)
			if tenant, ok := k.redeem(text, time.Now()); ok != c.ok || ok && tenant.tenant != "alice" {
				t.Errorf("%s: %q, %v", name, tenant.tenant, ok)
			}
			if _, ok := k.redeem(text, time.Now()); ok {
				t.Errorf("%s: worked twice", name)
			}
		}
	})
}

func TestTicketsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTickets()
		for range tenantsShare {
			if _, p := k.issue(caller{tenant: "alice"}, time.Now()); p != nil {
				t.Fatal(p)
			}
		}
		if _, p := k.issue(caller{tenant: "alice"}, time.Now()); p != errTickets {
			t.Errorf("one more: %v", p)
		}
		if _, p := k.issue(caller{tenant: "bob"}, time.Now()); p != nil {
			t.Errorf("another tenant: %v", p)
		}
		time.Sleep(ticketLife)
		if _, p := k.issue(caller{tenant: "alice"}, time.Now()); p != nil || len(k.open) != 1 {
			t.Errorf("after they expired: %v, %d open", p, len(k.open))
		}
	})
}

// W02: tickets work once, for their tenant, and appear in no log.
func TestTicketOpensSocket(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.APIKeys = []string{"alice", "bob"} })
	draw := func(key string) string {
		t.Helper()
		status, header, body := f.post(t, "/v1/ws-ticket", "", "Authorization", "Bearer "+key)
		var doc ticketAnswer
		if err := json.Unmarshal([]byte(body), &doc); err != nil || status != 200 || doc.ExpiresIn != 30 || len(doc.Ticket) < 20 || header.Get("Cache-Control") != "no-store" {
			t.Fatalf("status %d, %s", status, body)
		}
		return doc.Ticket
	}
	open := func(query string, protocols ...string) (*websocket.Conn, int) {
		t.Helper()
		conn, resp, err := websocket.Dial(t.Context(), f.url+"/streaming"+query, &websocket.DialOptions{Subprotocols: append([]string{richProtocol}, protocols...)})
		if err != nil {
			return nil, resp.StatusCode
		}
		t.Cleanup(func() { conn.CloseNow() })
		return conn, resp.StatusCode
	}
	if status, _, _ := f.post(t, "/v1/ws-ticket", ""); status != http.StatusUnauthorized {
		t.Errorf("a ticket without a key: %d", status)
	}
	ticket := draw("alice")
	if _, status := open("?ticket=" + ticket); status != 101 {
		t.Errorf("a ticket: %d", status)
	}
	for name, c := range map[string]struct {
		query, protocol string
	}{
		"none":             {"", ""},
		"used":             {"?ticket=" + ticket, ""},
		"used with a key":  {"?ticket=" + ticket, "bearer.alice"},
		"empty":            {"?ticket=", ""},
		"forged":           {"?ticket=" + strings.Repeat("A", 26), ""},
		"a key instead":    {"?ticket=alice", ""},
		"key in the query": {"?key=alice&api_key=alice", ""},
		"two tickets":      {"?ticket=" + draw("alice") + "&ticket=" + draw("alice"), ""},
		"another's ticket": {"?ticket=" + draw("bob"), "bearer.alice"},
	} {
		protocols := []string{}
		if c.protocol != "" {
			protocols = append(protocols, c.protocol)
		}
		if _, status := open(c.query, protocols...); status != http.StatusUnauthorized {
			t.Errorf("%s: status %d", name, status)
		}
	}
	if _, status := open("?ticket="+draw("bob"), "bearer.bob"); status != 101 {
		t.Errorf("a ticket and its own key: %d", status)
	}
	f.stop()
	<-f.draining.done
	if strings.Contains(f.log.String(), ticket) {
		t.Error("the ticket is in the log")
	}
}

func TestSocketsPerKey(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) {
		c.APIKeys, c.Limits.SocketsPerKey = []string{"alice", "bob"}, 2
	})
	alice := []*pageSocket{f.rich(t, "bearer.alice"), f.rich(t, "bearer.alice")}
	_, resp, err := websocket.Dial(t.Context(), f.url+"/streaming", &websocket.DialOptions{Subprotocols: []string{richProtocol, "bearer.alice"}})
	if err == nil || resp.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("a third socket: %v", err)
	}
	f.rich(t, "bearer.bob")
	alice[0].conn.Close(websocket.StatusNormalClosure, "")
	for deadline := time.Now().Add(patience); f.sockets.inside.Load() != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the socket is not given back")
		}
	}
	f.rich(t, "bearer.alice")
}

func TestCancel(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.APIKeys = []string{"alice", "bob"} })
	f.fake.set((*fakeGeneration).endless)
	cancel := func(key, id string) int {
		status, _, _ := f.post(t, "/v1/cancel/"+id, "", "Authorization", "Bearer "+key)
		return status
	}
	p := f.rich(t, "bearer.alice")
	p.generate("mine", "")
	requestID := p.read()["requestId"].(string)
	if got := cancel("bob", "mine"); got != 404 {
		t.Errorf("a foreign cancel: %d", got)
	}
	if got := cancel("bob", requestID); got != 404 {
		t.Errorf("a foreign cancel by request: %d", got)
	}
	if got := cancel("alice", "mine"); got != 200 {
		t.Errorf("cancel: %d", got)
	}
	f.next(t).wantStop(t, "client")
	var s transcript
	p.follow(&s, s.ended)
	if s.terminal["type"] != typeStopped {
		t.Errorf("ended with %v", s.terminal)
	}
	if got := cancel("alice", "mine"); got != 404 {
		t.Errorf("cancel of what has ended: %d", got)
	}

	answered := make(chan string, 1)
	go func() {
		_, _, body := f.post(t, chatPath, chatBody(""), "Authorization", "Bearer alice", requestIDHeader, "my-request")
		answered <- body
	}()
	g := f.next(t)
	if got := cancel("alice", "chatcmpl-my-request"); got != 200 {
		t.Errorf("cancel of an OpenAI answer: %d", got)
	}
	g.wantStop(t, "client")
	if body := <-answered; parseError(t, body).Error.Code != codeStopped {
		t.Errorf("the answer was %s", body)
	}
}
