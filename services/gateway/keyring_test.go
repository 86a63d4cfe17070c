package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/apikey"
)

// keyFile is a file of keys, and the texts of the keys by name.
type keyFile struct {
	path  string
	keys  []apikey.Key
	texts map[string]string
}

func newKeyFile(t *testing.T, keys ...apikey.Key) *keyFile {
	t.Helper()
	f := &keyFile{path: filepath.Join(t.TempDir(), "keys.json"), texts: map[string]string{}}
	for _, want := range keys {
		k, text, err := apikey.New(want.Name, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		k.Requests, k.Tokens, k.Models, k.Expires = want.Requests, want.Tokens, want.Models, want.Expires
		f.keys, f.texts[k.Name] = append(f.keys, k), text
	}
	f.write(t)
	return f
}

func (f *keyFile) write(t *testing.T) {
	t.Helper()
	if err := apikey.Write(f.path, f.keys); err != nil {
		t.Fatal(err)
	}
}

func (f *keyFile) bearer(name string) string { return "Bearer " + f.texts[name] }

// dialPlain opens a socket of the plain protocol with a key.
func (f *front) dialPlain(t *testing.T, key string) *pageSocket {
	t.Helper()
	return f.dial(t, &websocket.DialOptions{Subprotocols: []string{plainProtocol, bearerPrefix + key}})
}

func (f *keyFile) serve(t *testing.T) *front {
	t.Helper()
	return serve(t, func(c *Config, _ *Deps) { c.Keys = f.path })
}

// TestKeysAreHeldToTheirLimits on HTTP: 401, 403 and 429, each at once and with
// what the client needs to know.
func TestKeysAreHeldToTheirLimits(t *testing.T) {
	keys := newKeyFile(t,
		apikey.Key{Name: "free"},
		apikey.Key{Name: "two", Requests: 2},
		apikey.Key{Name: "few", Tokens: 4},
		apikey.Key{Name: "other", Models: []string{"llama-70b"}},
		apikey.Key{Name: "tiny", Models: []string{"models/llama-7b"}}, // an alias of tiny
		apikey.Key{Name: "old", Expires: time.Now().Add(-time.Hour)},
	)
	f := keys.serve(t)
	ask := func(name, path, body string) (int, http.Header, errorReply) {
		t.Helper()
		status, header, text := f.post(t, path, body, "Authorization", keys.bearer(name))
		var e errorReply
		if status != http.StatusOK {
			e = parseError(t, text)
		}
		return status, header, e
	}
	for range 5 {
		if status, h, _ := ask("free", chatPath, chatBody("")); status != http.StatusOK || h.Get("X-Ratelimit-Limit-Requests") != "" {
			t.Errorf("a key without limits: %d %v", status, h)
		}
	}
	if status, _, _ := f.post(t, chatPath, chatBody("")); status != http.StatusUnauthorized {
		t.Errorf("no key on loopback: %d", status)
	}
	if status, _, e := ask("old", chatPath, chatBody("")); status != http.StatusUnauthorized || e.Error.Code != "invalid_api_key" || !strings.Contains(e.Error.Message, "expired on") {
		t.Errorf("an expired key: %d %+v", status, e)
	}
	for path, body := range map[string]string{
		chatPath: chatBody(""), "/v1/completions": `{"model":"tiny","prompt":"x"}`, "/v1/embeddings": `{"model":"tiny","input":"x"}`,
	} {
		if status, _, e := ask("other", path, body); status != http.StatusForbidden || e.Error.Code != "model_not_allowed" || e.Error.Param == nil || *e.Error.Param != "model" {
			t.Errorf("%s with another model's key: %d %+v", path, status, e)
		}
	}
	if status, _, _ := ask("tiny", chatPath, chatBody("")); status != http.StatusOK {
		t.Errorf("a model by its alias: %d", status)
	}
	for i, left := range []string{"1", "0"} {
		status, h, _ := ask("two", chatPath, chatBody(""))
		if status != http.StatusOK || h.Get("X-Ratelimit-Limit-Requests") != "2" || h.Get("X-Ratelimit-Remaining-Requests") != left || h.Get("X-Ratelimit-Reset-Requests") == "" {
			t.Errorf("request %d: %d %v", i, status, h)
		}
	}
	status, h, e := ask("two", chatPath, chatBody(""))
	if seconds, err := strconv.Atoi(h.Get("Retry-After")); status != http.StatusTooManyRequests || err != nil || seconds < 1 || seconds > 30 ||
		e.Error.Code != "rate_limit_exceeded" || !strings.Contains(e.Error.Message, "2 requests a minute") {
		t.Errorf("the third: %d, after %q, %+v", status, h.Get("Retry-After"), e)
	}
	// Three tokens of prompt and three of answer: more than four, which is owed.
	if status, _, _ := ask("few", chatPath, chatBody("")); status != http.StatusOK {
		t.Errorf("the first of few tokens: %d", status)
	}
	if status, h, e := ask("few", chatPath, chatBody("")); status != http.StatusTooManyRequests || h.Get("Retry-After") == "" || !strings.Contains(e.Error.Message, "4 tokens a minute") {
		t.Errorf("the second of few tokens: %d %+v", status, e)
	}
	// Models that a key is not for are not shown to it.
	for name, want := range map[string]int{"other": 0, "tiny": 1, "free": 1} {
		_, _, body := f.do(t, "GET", "/v1/models", "", "Authorization", keys.bearer(name))
		var list modelList
		if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Data) != want {
			t.Errorf("%s sees %d models: %v", name, len(list.Data), err)
		}
	}
	if status, _, _ := f.do(t, "GET", "/v1/models/tiny", "", "Authorization", keys.bearer("other")); status != http.StatusNotFound {
		t.Errorf("a hidden model: %d", status)
	}
}

// TestLimitsOnSockets: on both protocols, and as server-sent events, a request
// beyond a limit is refused with when to ask again, and the socket stays.
func TestLimitsOnSockets(t *testing.T) {
	keys := newKeyFile(t, apikey.Key{Name: "plain", Requests: 1}, apikey.Key{Name: "rich", Requests: 1}, apikey.Key{Name: "sse", Requests: 1},
		apikey.Key{Name: "other", Models: []string{"llama-70b"}})
	f := keys.serve(t)
	check := func(where string, got frame, code string, retry bool) {
		t.Helper()
		ms, _ := got["retryAfterMs"].(float64)
		if got["type"] != "error" || got["code"] != code || (ms > 0) != retry {
			t.Errorf("%s: %v", where, got)
		}
	}
	plain := f.dialPlain(t, keys.texts["plain"])
	plain.send(`{"prompt":"x"}`)
	if _, _, last := plain.answer(); last["type"] != "complete" {
		t.Fatalf("plain: %v", last)
	}
	for range 2 { // it is not busy after a refusal
		plain.send(`{"prompt":"x"}`)
		check("plain", plain.read(), "rate_limit_exceeded", true)
	}
	other := f.dialPlain(t, keys.texts["other"])
	other.send(`{"prompt":"x","model":"tiny"}`)
	check("plain", other.read(), "model_not_allowed", false)

	rich := f.rich(t, "bearer."+keys.texts["rich"])
	rich.generate(resumableID(1), "")
	var s transcript
	rich.follow(&s, func() bool { return s.ended() })
	rich.generate(resumableID(2), "")
	for got := rich.read(); ; got = rich.read() {
		if got["type"] == "error" {
			check("rich", got, "rate_limit_exceeded", true)
			break
		}
	}
	body := `{"v":1,"type":"generate","prompt":"x"}`
	headers := []string{"Accept", "text/event-stream", "Authorization", keys.bearer("sse")}
	if status, _, _ := f.post(t, "/streaming", body, headers...); status != http.StatusOK {
		t.Errorf("events: %d", status)
	}
	if status, h, _ := f.post(t, "/streaming", body, headers...); status != http.StatusTooManyRequests || h.Get("Retry-After") == "" {
		t.Errorf("events: %d", status)
	}
}

// TestLimitsOnGRPC: RESOURCE_EXHAUSTED with RetryInfo, PERMISSION_DENIED,
// UNAUTHENTICATED.
func TestLimitsOnGRPC(t *testing.T) {
	keys := newKeyFile(t, apikey.Key{Name: "one", Requests: 1}, apikey.Key{Name: "other", Models: []string{"llama-70b"}},
		apikey.Key{Name: "old", Expires: time.Now().Add(-time.Hour)})
	f := keys.serve(t)
	client := pb.NewGenerateServiceClient(f.dialGRPC(t))
	ask := func(name string) error {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", keys.bearer(name))
		stream, err := client.Generate(ctx, prompt("hi"))
		for err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	if err := ask("one"); !errors.Is(err, io.EOF) {
		t.Errorf("the first: %v", err)
	}
	err := ask("one")
	retry := time.Duration(0)
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			retry = info.GetRetryDelay().AsDuration()
		}
	}
	if status.Code(err) != codes.ResourceExhausted || retry <= 0 || retry > time.Minute {
		t.Errorf("the second: %v, again after %v", err, retry)
	}
	if err := ask("other"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another model: %v", err)
	}
	if err := ask("old"); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "expired on") {
		t.Errorf("an expired key: %v", err)
	}
}

// TestKeysAreReadAgain: without a restart a new key is let in, a key that was
// revoked is refused on sockets that are open, a limit that was changed holds, what
// was used stays used, and a file that makes no sense changes nothing.
func TestKeysAreReadAgain(t *testing.T) {
	keys := newKeyFile(t, apikey.Key{Name: "a"}, apikey.Key{Name: "b", Requests: 1})
	f := keys.serve(t)
	open := f.dialPlain(t, keys.texts["a"])
	ask := func(name string) int {
		status, _, _ := f.post(t, chatPath, chatBody(""), "Authorization", keys.bearer(name))
		return status
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(patience); !ok(); {
			if time.Now().After(end) {
				t.Fatalf("never: %s", what)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if got := ask("b"); got != http.StatusOK {
		t.Fatalf("b: %d", got)
	}
	c, text, err := apikey.New("c", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	keys.texts["c"] = text
	keys.keys = append(keys.keys, c)
	keys.write(t)
	until("the new key is let in", func() bool { return ask("c") == http.StatusOK })
	if got := ask("b"); got != http.StatusTooManyRequests {
		t.Errorf("b has used its minute, and gets %d", got)
	}
	if err := os.WriteFile(keys.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	until("the mistake is told", func() bool { return strings.Contains(f.log.String(), "the changed API keys are not in force") })
	if got := ask("c"); got != http.StatusOK {
		t.Errorf("with a file that makes no sense c gets %d", got)
	}
	if got, _, _ := f.post(t, chatPath, chatBody("")); got != http.StatusUnauthorized {
		t.Errorf("with a file that makes no sense nobody gets %d", got)
	}
	keys.keys = slices.DeleteFunc(keys.keys, func(k apikey.Key) bool { return k.Name == "a" })
	keys.write(t)
	until("the revoked key is refused", func() bool { return ask("a") == http.StatusUnauthorized })
	open.send(`{"prompt":"x"}`)
	if got := open.read(); got["code"] != "invalid_api_key" {
		t.Errorf("on a socket that was open: %v", got)
	}
	keys.keys = nil
	keys.write(t)
	until("the last key is refused", func() bool { return ask("c") == http.StatusUnauthorized })
}

// TestAKeyFileMustBeThere, when it is named; and it is enough for a public listener.
func TestAKeyFileMustBeThere(t *testing.T) {
	if _, err := newKeyring(Config{Keys: filepath.Join(t.TempDir(), "x")}); err == nil || !strings.Contains(err.Error(), "shoal key create") {
		t.Errorf("no file: %v", err)
	}
	keys := newKeyFile(t)
	ring, err := newKeyring(Config{Keys: keys.path})
	if err != nil || !ring.needed() {
		t.Errorf("an empty file: %v", err)
	}
	if public, err := (listener{"--listen", "0.0.0.0:1"}).check(Config{Keys: keys.path, TLSOff: true}, false); !public || err != nil {
		t.Errorf("a public listener: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ring.watch(ctx, nil); err != nil {
		t.Error(err)
	}
}

// TestBudget holds the budget to its law: over any time, what is begun is at most
// what a full bucket and that time allow, and a wait that is told is enough and not
// much too long.
func TestBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		requests, tokens := rapid.IntRange(1, 100).Draw(t, "requests"), rapid.IntRange(0, 10_000).Draw(t, "tokens")
		start := time.Unix(1_000_000, 0)
		now := start
		b := &budget{}
		b.limit(requests, tokens, now)
		begun, used := 0, 0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
			wait, of := b.begin(now)
			if wait == 0 {
				begun++
				n := rapid.IntRange(0, 300).Draw(t, "n")
				used += n
				b.use(n, now)
			} else if w, _ := (&budget{requests: b.requests, tokens: b.tokens}).begin(now.Add(wait + time.Microsecond)); w > 0 && of == "requests" && tokens == 0 {
				t.Fatalf("told to wait %v, and then %v more", wait, w)
			}
			minutes := now.Sub(start).Minutes()
			if most := float64(requests) * (1 + minutes); float64(begun) > most+1e-6 {
				t.Fatalf("%d requests in %v", begun, now.Sub(start))
			}
			if most := float64(tokens)*(1+minutes) + 300; tokens > 0 && float64(used) > most {
				t.Fatalf("%d tokens in %v", used, now.Sub(start))
			}
		}
	})
	var none *budget
	none.use(5, time.Now()) // counts nothing
	free := &budget{}
	free.limit(0, 0, time.Now())
	for range 1000 {
		if wait, _ := free.begin(time.Now()); wait != 0 {
			t.Fatal("no limit is a limit")
		}
	}
}
