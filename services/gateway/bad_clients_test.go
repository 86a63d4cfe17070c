package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A01: whatever is wrong with a key, the answer is the same to the byte, and the
// work is: keys are compared as hashes, each in constant time.
func TestA01WrongKeysLookAlike(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.APIKeys = []string{"sesame", "other"} })
	_, _, first := f.do(t, http.MethodGet, "/v1/models", "")
	for _, key := range []string{"", "s", "sesam", "sesame ", "sesamE", "other1", strings.Repeat("sesame", 5000)} {
		status, header, body := f.do(t, http.MethodGet, "/v1/models", "", "Authorization", "Bearer x"+key)
		if status != http.StatusUnauthorized || body != first || header.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("key %.10q: status %d: %s", key, status, body)
		}
	}
}

// slowly sends text a byte a second until the peer has answered or closed, and
// returns what it said.
func slowly(conn net.Conn, text string) string {
	answered := make(chan string)
	go func() {
		reply, _ := io.ReadAll(conn) // a closed pipe ends it
		answered <- string(reply)
	}()
	for i := range len(text) {
		if _, err := io.WriteString(conn, text[i:i+1]); err != nil {
			break
		}
		time.Sleep(time.Second)
	}
	return <-answered
}

// A05: a request that comes a byte a second meets a limit of time. Headers that
// do not end are no request, and end the connection.
func TestA05SlowRequestsTimeOut(t *testing.T) {
	head := "POST " + chatPath + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n"
	for name, c := range map[string]struct {
		at   int // from here on slowly
		want string
		most time.Duration
	}{
		"body":    {len(head), "HTTP/1.1 408 ", bodyTimeout + time.Second},
		"headers": {20, "HTTP/1.1 400 ", headerTimeout + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &pipeListener{make(chan net.Conn), make(chan struct{})}
				server := bareGateway().newHTTPServer(nil)
				go server.Serve(l)
				conn, _ := l.dial(t.Context(), "", "")
				text, began := head+strings.Repeat(" ", 1000), time.Now()
				if _, err := io.WriteString(conn, text[:c.at]); err != nil {
					t.Fatal(err)
				}
				reply := slowly(conn, text[c.at:])
				if after := time.Since(began); !strings.HasPrefix(reply, c.want) || after > c.most {
					t.Errorf("after %v: %q", after, reply)
				}
				conn.Close()
				server.Close()
			})
		})
	}
}

// A05: many small headers are as bad as a large one.
func TestA05ManyHeaders(t *testing.T) {
	t.Parallel()
	f := serve(t)
	reply := f.wire(t, "GET /livez HTTP/1.1\r\nHost: localhost\r\n"+strings.Repeat("X-H: 1\r\n", 10_000)+"\r\n")
	if !strings.HasPrefix(reply, "HTTP/1.1 431 ") {
		t.Errorf("10,000 headers: %.40q", reply)
	}
}

// wire sends bytes as they are and returns all that comes back until the server
// closes the connection.
func (f *front) wire(t *testing.T, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", f.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	go io.WriteString(conn, text) // the server may close before it has read all
	reply, err := io.ReadAll(conn)
	if err != nil && len(reply) == 0 {
		t.Errorf("%.60q: %v", text, err)
	}
	return string(reply)
}

// A12: text that is hard on a tokenizer passes the door as it is and at once;
// bytes that are no text do not pass.
func TestA12HardTextPassesUnchanged(t *testing.T) {
	f := serve(t)
	for name, text := range map[string]string{
		"one letter": strings.Repeat("a", 1<<20),
		"joined":     strings.Repeat("👩‍👩‍👧‍👦", 1<<20/25),
		"combining":  "e" + strings.Repeat("\u0301", 1<<18),
		"spaces":     strings.Repeat(" ", 1<<20),
		"controls":   "\u202e\u2066\u200b\ufeff\ufffd",
	} {
		status, _, body := f.post(t, chatPath, `{"messages":[{"role":"user","content":"`+text+`"}]}`)
		if status != http.StatusOK {
			t.Errorf("%s: status %d: %.200s", name, status, body)
			continue
		}
		if got := f.next(t).GetChat().GetMessages()[0].GetContent(); got != text {
			t.Errorf("%s: %d bytes arrived as %d others", name, len(text), len(got))
		}
	}
	for _, bytes := range []string{"a\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "caf\xc3"} {
		status, _, body := f.post(t, chatPath, `{"messages":[{"role":"user","content":"`+bytes+`"}]}`)
		if status != http.StatusBadRequest || parseError(t, body).Error.Code != codeInvalid {
			t.Errorf("%q: status %d: %s", bytes, status, body)
		}
	}
}

// leavings are the ways in which a client goes in the middle of an answer.
var leavings = map[string]func(*net.TCPConn){
	"close":       func(c *net.TCPConn) { c.Close() },
	"half-close":  func(c *net.TCPConn) { c.CloseWrite() },
	"reset":       func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	"never reads": func(*net.TCPConn) {},
}

// A15: however a client leaves, the coordinator is told to stop, from every door
// that streams.
func TestA15ClientsThatLeave(t *testing.T) {
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	socket := func(protocol, request string) string {
		return "GET /streaming HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: " + protocol + "\r\n\r\n" + string(wireFrame(fin|opText, request))
	}
	for door, request := range map[string]string{
		"chat":       post(chatPath, chatBody(`"stream":true`)),
		"completion": post("/v1/completions", `{"model":"tiny","prompt":"x","stream":true}`),
		"events":     post("/streaming", `{"prompt":"x"}`),
		"plain":      socket(plainProtocol, `{"prompt":"x"}`),
		"rich":       socket(richProtocol, `{"v":1,"type":"generate","id":"a","prompt":"x"}`),
	} {
		for way, leave := range leavings {
			t.Run(door+"/"+way, func(t *testing.T) {
				t.Parallel()
				f := serve(t, func(c *Config, _ *Deps) {
					if way == "never reads" {
						c.Limits.WriteTimeout = 200 * time.Millisecond
					}
				})
				f.fake.set(func(g *fakeGeneration) {
					g.accept()
					for seq := uint64(1); g.await(seq); seq++ {
						g.send(g.number, tokenEvent(seq, strings.Repeat("word ", 1000)))
					}
				})
				conn, err := net.Dial("tcp", f.HTTPAddr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				tcp := conn.(*net.TCPConn)
				tcp.SetReadBuffer(4096)
				if _, err := io.WriteString(conn, request); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				g := f.next(t)
				leave(tcp)
				g.wantStop(t, "client")
			})
		}
	}
}

// A17: a request whose time is over reaches no coordinator; one whose time ends
// is stopped, and its client told so.
func TestA17Deadlines(t *testing.T) {
	f := serve(t)
	for _, value := range []string{"0", "-1"} {
		status, _, body := f.post(t, chatPath, chatBody(""), timeoutHeader, value)
		if status != http.StatusRequestTimeout || parseError(t, body).Error.Code != codeDeadline {
			t.Errorf("%s ms: status %d: %s", value, status, body)
		}
	}
	for _, values := range [][]string{{"soon"}, {""}, {"1.5"}, {"99999999999"}, {"1e3"}, {"5", "6"}} {
		var headers []string
		for _, v := range values {
			headers = append(headers, timeoutHeader, v)
		}
		status, _, body := f.post(t, chatPath, chatBody(""), headers...)
		if e := parseError(t, body); status != http.StatusBadRequest || *e.Error.Param != timeoutHeader {
			t.Errorf("%q: status %d: %s", values, status, body)
		}
	}
	select {
	case g := <-f.fake.started:
		t.Fatalf("the coordinator saw %v", g.Generation)
	default:
	}

	f.fake.set((*fakeGeneration).silent)
	if status, _, body := f.post(t, chatPath, chatBody(""), timeoutHeader, "1"); status != http.StatusRequestTimeout {
		t.Errorf("1 ms: status %d: %s", status, body)
	}
	for len(f.fake.started) > 0 { // it may have been over before
		(<-f.fake.started).wantStop(t, "deadline")
	}

	f.fake.set((*fakeGeneration).endless)
	before := time.Now()
	status, _, body := f.post(t, chatPath, chatBody(`"stream":true`), timeoutHeader, "2000")
	g := f.next(t)
	for time.UnixMilli(g.GetDeadlineMs()).Before(before) { // the one of 1 ms, late
		g = f.next(t)
	}
	g.wantStop(t, "deadline")
	if at := time.UnixMilli(g.GetDeadlineMs()); at.Before(before.Add(1999*time.Millisecond)) || at.After(time.Now().Add(time.Millisecond)) {
		t.Errorf("the coordinator was told %v, asked at %v", at, before)
	}
	list := events(t, body)
	if e := parseError(t, list[len(list)-1]); status != http.StatusOK || e.Error.Code != codeDeadline || strings.Contains(body, "[DONE]") {
		t.Errorf("status %d, the stream ends with %s", status, list[len(list)-1])
	}
	_, _, body = f.post(t, "/streaming", `{"prompt":"x"}`, timeoutHeader, "1000")
	if !strings.Contains(body, `"type":"stopped","id":`) || !strings.Contains(body, `"reason":"deadline"`) {
		t.Errorf("the rich stream ends with %.300s", body[max(0, len(body)-300):])
	}
}

// A19: of two requests with one idempotency key at the same time, one is
// answered. The key is its tenant's own, and free again afterwards.
func TestA19IdempotencyKey(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.APIKeys = []string{"alice", "bob"} })
	f.fake.set((*fakeGeneration).endless)
	ask := func(tenant string, keys ...string) (int, string) {
		headers := []string{"Authorization", "Bearer " + tenant, requestIDHeader, "request-of-" + tenant}
		for _, k := range keys {
			headers = append(headers, idempotencyHeader, k)
		}
		status, _, body := f.post(t, chatPath, chatBody(""), headers...)
		return status, body
	}
	ended := make(chan int, 2)
	go func() { status, _ := ask("alice", "k-1"); ended <- status }()
	first := f.next(t)
	status, body := ask("alice", "k-1")
	if e := parseError(t, body); status != http.StatusConflict || e.Error.Code != codeRepeated || *e.Error.Param != idempotencyHeader {
		t.Errorf("the second: status %d: %s", status, body)
	}
	go func() { status, _ := ask("bob", "k-1"); ended <- status }()
	foreign := f.next(t)
	for _, g := range []*fakeGeneration{first, foreign} {
		g.send(g.number, completeEvent("stop", 0, ""))
		g.stop("") // the script ends
	}
	if a, b := <-ended, <-ended; a != http.StatusOK || b != http.StatusOK {
		t.Errorf("the first of each tenant: %d and %d", a, b)
	}
	f.fake.set(func(g *fakeGeneration) { g.answer("again") })
	if status, body := ask("alice", "k-1"); status != http.StatusOK {
		t.Errorf("after its end: status %d: %s", status, body)
	}
	for _, keys := range [][]string{{""}, {"a b"}, {strings.Repeat("k", 256)}, {"a", "b"}} {
		if status, body := ask("alice", keys...); status != http.StatusBadRequest {
			t.Errorf("%.20q: status %d: %s", keys, status, body)
		}
	}
}

// A16: nothing that a request hides from one reader is read as another request,
// and what could be read in two ways ends the connection.
func TestA16Smuggling(t *testing.T) {
	f := serve(t)
	const hidden = "GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
	post := "POST /v1/ws-ticket HTTP/1.1\r\nHost: localhost\r\n"
	for name, c := range map[string]struct {
		text   string
		status []int // of the one answer
	}{
		"two lengths":               {post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", []int{400}},
		"a list of lengths":         {post + "Content-Length: 2, 3\r\n\r\n{}x", []int{400}},
		"signed length":             {post + "Content-Length: +2\r\n\r\n{}", []int{400}},
		"length and encoding":       {post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, []int{200}},
		"encoding and length":       {post + "Transfer-Encoding: chunked\r\nContent-Length: 200\r\n\r\n0\r\n\r\n" + hidden, []int{200}},
		"two encodings":             {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", []int{400, 501}},
		"an encoding and another":   {post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", []int{400, 501}},
		"space before colon":        {"GET /livez HTTP/1.1\r\nHost : localhost\r\n\r\n", []int{400}},
		"folded host":               {"GET /livez HTTP/1.1\r\nHost: localhost\r\n evil.com\r\n\r\n", []int{400, 421}},
		"folded length":             {post + "Content-Length: 1\r\n 0\r\n\r\n{}", []int{400}},
		"fold before any header":    {"GET /livez HTTP/1.1\r\n Host: localhost\r\n\r\n", []int{400}},
		"two hosts":                 {"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\n\r\n", []int{400}},
		"no host":                   {"GET /livez HTTP/1.1\r\n\r\n", []int{400}},
		"HTTP/0.9":                  {"GET /livez\r\n\r\n", []int{400}},
		"a version that is not one": {"GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n", []int{400, 505}},
		"line feed in a name":       {"GET /livez HTTP/1.1\r\nHost: localhost\r\nX\nY: 1\r\n\r\n", []int{400}},
		"bad chunk":                 {post + "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + hidden, []int{200, 400}},
	} {
		t.Run(name, func(t *testing.T) {
			reply := f.wire(t, c.text) // returns because the server closes
			resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(reply)), nil)
			if err != nil {
				t.Fatalf("%q: %v", reply, err)
			}
			if !slices.Contains(c.status, resp.StatusCode) || strings.Count(reply, "HTTP/1.1 ") != 1 {
				t.Errorf("want one answer of %v: %q", c.status, reply)
			}
		})
	}
}

// A20: a proxy's method is none of ours.
func TestA20Connect(t *testing.T) {
	f := serve(t)
	for _, target := range []string{"example.com:443", "127.0.0.1:22"} {
		reply := f.wire(t, "CONNECT "+target+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(reply)), nil)
		if err != nil || !slices.Contains([]int{404, 405, 421}, resp.StatusCode) {
			t.Errorf("CONNECT %s: %q", target, reply)
		}
	}
}

// A06: a conversation of more messages than fit is refused by its length.
func TestA06ManyMessages(t *testing.T) {
	f := serve(t)
	status, _, body := f.post(t, chatPath, `{"messages":[`+strings.Repeat(`{"role":"user","content":"x"},`, 99_999)+`{"role":"user","content":"x"}]}`)
	if e := parseError(t, body); status != http.StatusBadRequest || e.Error.Param == nil || !strings.HasPrefix(*e.Error.Param, "messages") {
		t.Errorf("status %d: %s", status, body)
	}
}

// A08: as many biases as a body can hold.
func TestA08ManyBiases(t *testing.T) {
	f := serve(t)
	var list strings.Builder
	for i := range 200_000 {
		list.WriteString(strconv.Quote(strconv.Itoa(i)) + ":1,")
	}
	status, _, body := f.post(t, chatPath, chatBody(`"logit_bias":{`+list.String()+`"200001":1}`))
	if e := parseError(t, body); status != http.StatusBadRequest || e.Error.Param == nil || !strings.HasPrefix(*e.Error.Param, "logit_bias") {
		t.Errorf("status %d: %.300s", status, body)
	}
}
