package fetch

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// origin is a server of one file that can misbehave.
type origin struct {
	*httptest.Server
	data []byte
	sent atomic.Int64

	mu       sync.Mutex
	requests int // guarded by mu
	// spoil, if there is one, may answer request n, counted from 1, itself. Guarded by mu.
	spoil func(n int, w http.ResponseWriter, r *http.Request) bool
}

func newOrigin(t *testing.T, size int) *origin {
	t.Helper()
	o := &origin{data: make([]byte, size)}
	rand.NewChaCha8([32]byte{1}).Read(o.data)
	o.Server = httptest.NewServer(http.HandlerFunc(o.serve))
	t.Cleanup(o.Close)
	return o
}

func (o *origin) serve(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.requests++
	n, spoil := o.requests, o.spoil
	o.mu.Unlock()
	if spoil != nil && spoil(n, w, r) {
		return
	}
	w.Header().Set("ETag", `"v1"`)
	http.ServeContent(counting{w, o}, r, "model.gguf", time.Time{}, bytes.NewReader(o.data))
}

func (o *origin) misbehave(f func(n int, w http.ResponseWriter, r *http.Request) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.requests, o.spoil = 0, f
}

type counting struct {
	http.ResponseWriter
	o *origin
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.o.sent.Add(int64(n))
	return n, err
}

// quick is a fetcher that tries again at once.
func quick(t *testing.T) *Fetcher { return patient(t, 20*time.Second) }

// patient is quick, and takes a server for stalled after a time.
func patient(t *testing.T, stall time.Duration) *Fetcher {
	t.Helper()
	f := New(Options{Private: loopback, Stall: stall, MinRate: 1000, Attempts: 4, Pause: time.Millisecond, MaxWait: 3 * time.Second})
	t.Cleanup(f.Close)
	return f
}

// spansOf cuts a file.
func spansOf(size, each int) (out []Span) {
	for at := 0; at < size; at += each {
		out = append(out, Span{int64(at), min(each, size-at)})
	}
	return out
}

// sink collects a file. Writing a span twice is an error.
type sink struct {
	t    *testing.T
	mu   sync.Mutex
	data []byte
	got  map[int64]bool
}

func newSink(t *testing.T, size int) *sink {
	return &sink{t: t, data: make([]byte, size), got: map[int64]bool{}}
}

func (s *sink) put(span Span, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.got[span.Offset] || len(data) != span.Size {
		s.t.Errorf("span %+v comes twice, or with %d bytes", span, len(data))
	}
	s.got[span.Offset] = true
	copy(s.data[span.Offset:], data)
	return nil
}

func fetchAll(t *testing.T, f *Fetcher, o *origin) error {
	t.Helper()
	r, err := f.Look(t.Context(), o.URL+"/model.gguf")
	if err != nil {
		return err
	}
	s := newSink(t, len(o.data))
	if err := f.Spans(t.Context(), r, spansOf(len(o.data), 10_000), s.put); err != nil {
		return err
	}
	if !bytes.Equal(s.data, o.data) {
		t.Error("what was fetched is not what was served")
	}
	return nil
}

func TestFetchesAll(t *testing.T) {
	o := newOrigin(t, 123_456)
	if err := fetchAll(t, quick(t), o); err != nil {
		t.Fatal(err)
	}
	if o.sent.Load() != int64(len(o.data)) {
		t.Errorf("%d bytes were sent of a file of %d", o.sent.Load(), len(o.data))
	}
}

// TestOnlyWhatIsWanted: spans that are not asked for are not sent.
func TestOnlyWhatIsWanted(t *testing.T) {
	o := newOrigin(t, 1_000_000)
	f := quick(t)
	r, err := f.Look(t.Context(), o.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := newSink(t, len(o.data))
	want := []Span{{990_000, 10_000}, {0, 1}, {500_000, 7}, {500_007, 3}}
	if err := f.Spans(t.Context(), r, want, s.put); err != nil {
		t.Fatal(err)
	}
	if len(s.got) != 4 || o.sent.Load() != 10_011 {
		t.Errorf("%d spans, %d bytes sent", len(s.got), o.sent.Load())
	}
	if _, err := f.Prefix(t.Context(), r, nil, 2_000_000); err != nil {
		t.Error(err)
	}
	if err := f.Spans(t.Context(), r, []Span{{990_000, 10_001}}, s.put); !errors.Is(err, ErrProtocol) {
		t.Errorf("a span beyond the file: %v", err)
	}
}

// TestMisbehaviour: servers that answer wrongly. After what passes the file is
// whole; what does not pass is an error by name. Nothing is ever at a wrong place.
func TestMisbehaviour(t *testing.T) {
	get := func(r *http.Request) bool { return r.Method == http.MethodGet }
	once := func(f func(w http.ResponseWriter, r *http.Request, o *origin)) func(o *origin) func(int, http.ResponseWriter, *http.Request) bool {
		return func(o *origin) func(int, http.ResponseWriter, *http.Request) bool {
			var first atomic.Bool
			return func(_ int, w http.ResponseWriter, r *http.Request) bool {
				if !get(r) || first.Swap(true) {
					return false
				}
				f(w, r, o)
				return true
			}
		}
	}
	always := func(f func(w http.ResponseWriter, r *http.Request, o *origin)) func(o *origin) func(int, http.ResponseWriter, *http.Request) bool {
		return func(o *origin) func(int, http.ResponseWriter, *http.Request) bool {
			return func(_ int, w http.ResponseWriter, r *http.Request) bool {
				if get(r) {
					f(w, r, o)
				}
				return get(r)
			}
		}
	}
	part := func(w http.ResponseWriter, first, last, total, send int) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, total))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(make([]byte, send))
	}
	asked := func(r *http.Request) (first, last int) {
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last)
		return first, last
	}
	for _, c := range []struct {
		name  string
		spoil func(o *origin) func(int, http.ResponseWriter, *http.Request) bool
		want  error // nil: it passes

		stall time.Duration // 0: that of quick
	}{
		{"busy for a moment", once(func(w http.ResponseWriter, _ *http.Request, _ *origin) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}), nil, 0},
		{"broken for a moment", once(func(w http.ResponseWriter, _ *http.Request, _ *origin) { w.WriteHeader(http.StatusBadGateway) }), nil, 0},
		{"broken", always(func(w http.ResponseWriter, _ *http.Request, _ *origin) { w.WriteHeader(http.StatusInternalServerError) }), ErrProtocol, 0},
		{"asks for an hour", always(func(w http.ResponseWriter, _ *http.Request, _ *origin) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusServiceUnavailable)
		}), ErrProtocol, 0},
		{"ignores ranges", always(func(w http.ResponseWriter, r *http.Request, o *origin) {
			w.Header().Set("ETag", `"v1"`)
			w.Header().Set("Content-Length", fmt.Sprint(len(o.data)))
			_, _ = w.Write(o.data)
		}), nil, 0},
		{"ignores ranges, chunked", always(func(w http.ResponseWriter, r *http.Request, o *origin) {
			for at := 0; at < len(o.data); at += 1000 {
				_, _ = w.Write(o.data[at:min(at+1000, len(o.data))])
				w.(http.Flusher).Flush()
			}
		}), nil, 0},
		{"one byte off, once", once(func(w http.ResponseWriter, r *http.Request, o *origin) {
			first, last := asked(r)
			part(w, first+1, last+1, len(o.data), last-first+1)
		}), nil, 0},
		{"one byte off", always(func(w http.ResponseWriter, r *http.Request, o *origin) {
			first, last := asked(r)
			part(w, first+1, last+1, len(o.data), last-first+1)
		}), ErrProtocol, 0},
		{"no range said", always(func(w http.ResponseWriter, r *http.Request, o *origin) {
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(o.data)
		}), ErrProtocol, 0},
		{"another total", always(func(w http.ResponseWriter, r *http.Request, o *origin) {
			first, last := asked(r)
			part(w, first, last, len(o.data)+1, last-first+1)
		}), ErrChanged, 0},
		{"short", once(func(w http.ResponseWriter, r *http.Request, o *origin) {
			first, last := asked(r)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(o.data)))
			w.Header().Set("Content-Length", fmt.Sprint(last-first+1))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(o.data[first : first+(last-first)/2])
			panic(http.ErrAbortHandler)
		}), nil, 0},
		{"compressed", always(func(w http.ResponseWriter, r *http.Request, o *origin) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(o.data)
			z.Close()
		}), ErrProtocol, 0},
		{"another file", always(func(w http.ResponseWriter, r *http.Request, o *origin) {
			w.Header().Set("ETag", `"v2"`)
			w.Header().Set("Content-Length", fmt.Sprint(len(o.data)))
			_, _ = w.Write(o.data)
		}), ErrChanged, 0},
		{"gone", always(func(w http.ResponseWriter, r *http.Request, _ *origin) { http.NotFound(w, r) }), ErrNotFound, 0},
		{"denied", always(func(w http.ResponseWriter, _ *http.Request, _ *origin) { w.WriteHeader(http.StatusForbidden) }), ErrDenied, 0},
		{"silent once", once(func(w http.ResponseWriter, r *http.Request, _ *origin) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}), nil, time.Second},
		{"silent before it answers", always(func(_ http.ResponseWriter, r *http.Request, _ *origin) { <-r.Context().Done() }), errAny, 200 * time.Millisecond},
		{"a trickle", always(func(w http.ResponseWriter, r *http.Request, o *origin) {
			first, last := asked(r)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(o.data)))
			w.WriteHeader(http.StatusPartialContent)
			for i := first; r.Context().Err() == nil && i <= last; i++ {
				_, _ = w.Write(o.data[i : i+1])
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		}), ErrStalled, 200 * time.Millisecond},
		{"a large head", always(func(w http.ResponseWriter, r *http.Request, _ *origin) {
			w.Header().Set("X-Large", strings.Repeat("x", 1<<20))
		}), errAny, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := newOrigin(t, 100_000)
			o.misbehave(c.spoil(o))
			f := quick(t)
			if c.stall > 0 {
				f = patient(t, c.stall)
			}
			err := fetchAll(t, f, o)
			if c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) && !(c.want == errAny && err != nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// errAny stands for any error.
var errAny = errors.New("any")

// TestGoesOnWhereItBroke: of a range that breaks again and again, every byte is sent
// about once.
func TestGoesOnWhereItBroke(t *testing.T) {
	o := newOrigin(t, 400_000)
	o.misbehave(func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		var first, last int
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last)
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(o.data)))
		w.Header().Set("Content-Length", fmt.Sprint(last-first+1))
		w.WriteHeader(http.StatusPartialContent)
		n := min(15_000, last-first+1)
		_, _ = counting{w, o}.Write(o.data[first : first+n])
		w.(http.Flusher).Flush()
		if n < last-first+1 {
			panic(http.ErrAbortHandler)
		}
		return true
	})
	if err := fetchAll(t, quick(t), o); err != nil {
		t.Fatal(err)
	}
	if sent := o.sent.Load(); sent > int64(len(o.data))*11/10 {
		t.Errorf("%d bytes were sent of a file of %d", sent, len(o.data))
	}
}

// TestBadBytesAreFetchedAgain: what the sink refuses comes again, but not for ever.
func TestBadBytesAreFetchedAgain(t *testing.T) {
	o := newOrigin(t, 50_000)
	f := quick(t)
	r, err := f.Look(t.Context(), o.URL)
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	refuse := func(times int64) func(Span, []byte) error {
		n.Store(0)
		return func(Span, []byte) error {
			if n.Add(1) <= times {
				return fmt.Errorf("segment 7: %w", ErrBad)
			}
			return nil
		}
	}
	if err := f.Spans(t.Context(), r, []Span{{0, 1000}}, refuse(2)); err != nil {
		t.Error(err)
	}
	if err := f.Spans(t.Context(), r, []Span{{0, 1000}}, refuse(1000)); !errors.Is(err, ErrBad) || n.Load() > 5 {
		t.Errorf("after %d times: %v", n.Load(), err)
	}
	full := errors.New("disk full")
	if err := f.Spans(t.Context(), r, spansOf(50_000, 1000), func(Span, []byte) error { return full }); !errors.Is(err, full) {
		t.Error(err)
	}
}

// TestPrivateAddresses: what is dialled is looked at, whatever names it and whoever
// redirects there.
func TestPrivateAddresses(t *testing.T) {
	o := newOrigin(t, 1000)
	public := New(Options{Attempts: 1})
	t.Cleanup(public.Close)
	port := o.Listener.Addr().(*net.TCPAddr).Port
	for _, address := range []string{
		o.URL, fmt.Sprintf("http://localhost:%d/", port), fmt.Sprintf("https://localhost:%d/", port), "http://169.254.169.254/latest/meta-data",
		"https://10.1.2.3/x", "https://192.168.0.1/", "https://172.16.0.1/", "https://[::1]/", "https://[fd00::1]/", "https://[fe80::1]/",
		"https://[::ffff:127.0.0.1]/", "https://0.0.0.0/", "https://100.64.0.1/", "https://[64:ff9b::7f00:1]/", "https://224.0.0.1/",
	} {
		if _, err := public.Look(t.Context(), address); !errors.Is(err, ErrAddress) {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"file:///etc/passwd", "gopher://example.org/", "ftp://example.org/", "https:///x", "/x", "https://user:secret@example.org/x"} {
		if _, err := public.Look(t.Context(), address); !errors.Is(err, ErrScheme) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestRedirects(t *testing.T) {
	o := newOrigin(t, 20_000)
	f := quick(t)
	to := ""
	hop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/loop" {
			http.Redirect(w, r, "/loop", http.StatusFound)
			return
		}
		w.Header().Set("X-Linked-Etag", `"abc"`)
		w.Header().Set("X-Repo-Commit", "c0ffee")
		http.Redirect(w, r, to, http.StatusFound)
	}))
	t.Cleanup(hop.Close)
	to = o.URL
	r, err := f.Look(t.Context(), hop.URL)
	if err != nil || r.Linked != "abc" || r.Commit != "c0ffee" || r.Size != 20_000 {
		t.Errorf("%+v, %v", r, err)
	}
	s := newSink(t, 20_000)
	if err := f.Spans(t.Context(), r, spansOf(20_000, 3000), s.put); err != nil || !bytes.Equal(s.data, o.data) {
		t.Errorf("through a redirect: %v", err)
	}
	for _, c := range []struct {
		to   string
		want error
	}{{"http://169.254.169.254/", ErrAddress}, {"http://10.0.0.1/", ErrAddress}, {"file:///etc/passwd", ErrScheme}, {"gopher://example.org/", ErrScheme}} {
		to = c.to
		if _, err := f.Look(t.Context(), hop.URL); !errors.Is(err, c.want) {
			t.Errorf("redirected to %s: %v", c.to, err)
		}
	}
	if _, err := f.Look(t.Context(), hop.URL+"/loop"); !errors.Is(err, ErrProtocol) {
		t.Errorf("redirected for ever: %v", err)
	}
}

// TestTokensStayWhereTheyBelong: a redirect to another server takes no token along.
func TestTokensStayWhereTheyBelong(t *testing.T) {
	var got sync.Map
	seen := func(w http.ResponseWriter, r *http.Request) { got.Store(r.Host, r.Header.Get("Authorization")) }
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen(w, r); w.Header().Set("Content-Length", "0") }))
	t.Cleanup(cdn.Close)
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen(w, r)
		http.Redirect(w, r, cdn.URL, http.StatusFound)
	}))
	t.Cleanup(hub.Close)
	host := func(s *httptest.Server) string { u, _ := url.Parse(s.URL); return u.Host }
	f := New(Options{Private: loopback, Token: func(h string) string {
		if h == host(hub) {
			return "secret"
		}
		return ""
	}})
	t.Cleanup(f.Close)
	if _, err := f.Look(t.Context(), hub.URL); err != nil {
		t.Fatal(err)
	}
	if v, _ := got.Load(host(hub)); v != "Bearer secret" {
		t.Errorf("the hub was shown %q", v)
	}
	if v, _ := got.Load(host(cdn)); v != "" {
		t.Errorf("the other server was shown %q", v)
	}
}

func TestCancelled(t *testing.T) {
	o := newOrigin(t, 10_000)
	o.misbehave(func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
		return r.Method == http.MethodGet
	})
	f := New(Options{Private: loopback})
	t.Cleanup(f.Close)
	r, err := f.Look(t.Context(), o.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := f.Spans(ctx, r, []Span{{0, 10_000}}, func(Span, []byte) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestSmall(t *testing.T) {
	o := newOrigin(t, 5000)
	f := quick(t)
	if b, err := f.Small(t.Context(), o.URL, 5000); err != nil || !bytes.Equal(b, o.data) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := f.Small(t.Context(), o.URL, 4999); !errors.Is(err, ErrProtocol) {
		t.Errorf("too much: %v", err)
	}
	o.misbehave(func(_ int, w http.ResponseWriter, _ *http.Request) bool { // without end
		for {
			if _, err := io.WriteString(w, strings.Repeat("x", 1000)); err != nil {
				return true
			}
		}
	})
	if _, err := f.Small(t.Context(), o.URL, 50_000); !errors.Is(err, ErrProtocol) {
		t.Errorf("without end: %v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "1e3": 0, now.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second, now.Add(-time.Hour).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
