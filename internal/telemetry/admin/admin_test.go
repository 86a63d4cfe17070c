package admin

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoal-llm/shoal/internal/telemetry"
)

// start runs a server until the test ends.
func start(t *testing.T, ready Ready) (base string) {
	t.Helper()
	tel, stopTel, err := telemetry.New(t.Context(), telemetry.Options{ServiceName: "shoal"})
	if err != nil {
		t.Fatal(err)
	}
	tel.AddTokens(telemetry.Prompt, 7)
	s, err := New("127.0.0.1:0", ready, tel, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		stopTel(context.Background())
	})
	return "http://" + s.Addr()
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(raw)
}

func TestPaths(t *testing.T) {
	base := start(t, func() (bool, map[string]string) { return true, nil })
	for path, want := range map[string]string{
		"/livez":               "ok",
		"/healthz":             "ok",
		"/metrics":             "shoal_tokens_prompt_total 7",
		"/debug/pprof/":        "goroutine",
		"/debug/pprof/cmdline": "admin",
	} {
		if status, body := get(t, base+path); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.200q, want 200 and %q", path, status, body, want)
		}
	}
	for path, want := range map[string]int{"/": 404, "/debug": 404, "/v1/models": 404} {
		if status, _ := get(t, base+path); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
	r, err := http.Post(base+"/metrics", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", r.StatusCode)
	}
}

func TestReadyzFollowsTheNode(t *testing.T) {
	var ready atomic.Bool
	base := start(t, func() (bool, map[string]string) {
		if ready.Load() {
			return true, map[string]string{"model tiny": "answers"}
		}
		return false, map[string]string{"model tiny": "loading layer 3 of 6"}
	})
	for _, c := range []struct {
		ready  bool
		path   string
		status int
		body   string
	}{
		{false, "/readyz", 503, `{"ready":false,"reasons":{"model tiny":"loading layer 3 of 6"}}`},
		{true, "/readyz", 200, `{"ready":true}`},
		{true, "/readyz?verbose", 200, `{"ready":true,"reasons":{"model tiny":"answers"}}`},
		{false, "/livez", 200, "ok"},
	} {
		ready.Store(c.ready)
		if status, body := get(t, base+c.path); status != c.status || strings.TrimSpace(body) != c.body {
			t.Errorf("%s when ready is %v: %d %s, want %d %s", c.path, c.ready, status, body, c.status, c.body)
		}
	}
}

func TestForeignNamesAreRefused(t *testing.T) {
	handler := onlyLoopbackNames(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for host, want := range map[string]int{
		"localhost": 200, "localhost:9090": 200, "127.0.0.1:9090": 200, "[::1]:9090": 200, "127.8.8.8": 200, "[::1]": 200,
		"evil.example:9090": 421, "10.0.0.1:9090": 421, "localhost.evil.example": 421, "": 421,
	} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Host = host
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("Host %q: %d, want %d", host, w.Code, want)
		}
	}
}

func TestProfilesStayOnThisMachine(t *testing.T) {
	mux := routes(func() (bool, map[string]string) { return true, nil }, telemetry.Nop())
	for remote, want := range map[string]int{"10.0.0.9:1234": 403, "127.0.0.1:1234": 200, "[::1]:1234": 200} {
		r := httptest.NewRequest(http.MethodGet, "/debug/pprof/cmdline", nil)
		r.RemoteAddr = remote
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("from %s: %d, want %d", remote, w.Code, want)
		}
	}
}

func TestTakenPort(t *testing.T) {
	base := start(t, func() (bool, map[string]string) { return true, nil })
	addr := strings.TrimPrefix(base, "http://")
	s, err := New(addr, nil, telemetry.Nop(), slog.New(slog.DiscardHandler))
	if err == nil {
		s.Close()
		t.Fatal("one port was taken twice")
	}
	if !strings.Contains(err.Error(), "admin address "+addr) {
		t.Errorf("error %v does not name the address", err)
	}
}
