package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Rule 10: what other machines can reach needs a key and TLS.
func TestNewRefuses(t *testing.T) {
	conn := dialFake(t, newFake())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	base := Config{Listen: "127.0.0.1:0", GRPCListen: "127.0.0.1:0"}
	with := func(edit func(*Config)) Config {
		c := base
		edit(&c)
		return c
	}
	for name, c := range map[string]struct {
		config Config
		tls    *tls.Config
		want   []string
	}{
		"no key":          {with(func(c *Config) { c.Listen = "0.0.0.0:0"; c.TLSOff = true }), nil, []string{"--listen 0.0.0.0:0", "API key"}},
		"no key on IPv6":  {with(func(c *Config) { c.Listen = "[::]:0"; c.TLSOff = true }), nil, []string{"--listen [::]:0", "API key"}},
		"every address":   {with(func(c *Config) { c.Listen = ":0" }), nil, []string{"--listen :0", "API key"}},
		"a host name":     {with(func(c *Config) { c.Listen = "example.com:0" }), nil, []string{"API key"}},
		"no TLS":          {with(func(c *Config) { c.Listen = "0.0.0.0:0"; c.APIKeys = []string{"k"} }), nil, []string{"--listen 0.0.0.0:0", "TLS", "--tls=off"}},
		"gRPC, no key":    {with(func(c *Config) { c.GRPCListen = "0.0.0.0:0" }), &tls.Config{}, []string{"--grpc-listen", "API key"}},
		"no port":         {with(func(c *Config) { c.Listen = "localhost" }), nil, []string{"--listen localhost", "HOST:PORT"}},
		"port is taken":   {with(func(c *Config) { c.Listen = taken.Addr().String() }), nil, []string{taken.Addr().String(), "in use", "--listen"}},
		"gRPC port taken": {with(func(c *Config) { c.GRPCListen = taken.Addr().String() }), nil, []string{taken.Addr().String(), "in use", "--grpc-listen"}},
		"origin":          {with(func(c *Config) { c.AllowedOrigins = []string{"example.com"} }), nil, []string{"example.com", "https://"}},
		"any origin":      {with(func(c *Config) { c.AllowedOrigins = []string{"*"} }), nil, []string{`"*"`}},
		"host":            {with(func(c *Config) { c.AllowedHosts = []string{"*"} }), nil, []string{`"*"`}},
		"empty key":       {with(func(c *Config) { c.APIKeys = []string{""} }), nil, []string{"API key"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(c.config, Deps{Coordinator: conn, TLS: c.tls})
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not hold %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q is more than one line", err)
			}
		})
	}
	if _, err := New(base, Deps{}); err == nil {
		t.Error("a gateway without a coordinator")
	}
}

// TLS with a key on an address that others reach: HTTP, WebSocket and page work.
func TestPublicWithTLS(t *testing.T) {
	certificate := selfSigned(t)
	f := serve(t, func(c *Config, d *Deps) {
		c.Listen, c.APIKeys = "0.0.0.0:0", []string{"sesame"}
		d.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	})
	_, port, _ := net.SplitHostPort(f.HTTPAddr().String())
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://127.0.0.1:"+port+"/v1/models", nil)
	req.Header.Set("Authorization", "Bearer sesame")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.ProtoMajor != 2 || !strings.HasPrefix(f.URL(), "https://") {
		t.Errorf("status %d over HTTP/%d at %s: %s", resp.StatusCode, resp.ProtoMajor, f.URL(), body)
	}
	plain, err := http.Get("http://127.0.0.1:" + port + "/livez")
	if err == nil {
		plain.Body.Close()
		if plain.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP: status %d", plain.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestTLSOffServesPlain(t *testing.T) {
	f := serve(t, func(c *Config, d *Deps) {
		c.Listen, c.APIKeys, c.TLSOff = "0.0.0.0:0", []string{"sesame"}, true
		d.TLS = &tls.Config{}
	})
	_, port, _ := net.SplitHostPort(f.HTTPAddr().String())
	f.url = "http://127.0.0.1:" + port
	if status, _, body := f.do(t, "GET", "/v1/models", "", "Authorization", "Bearer sesame"); status != 200 {
		t.Errorf("status %d: %s", status, body)
	}
}

// A certificate that was given is used on loopback too, where none is needed.
func TestGivenCertificateOnLoopback(t *testing.T) {
	certificate := selfSigned(t)
	f := serve(t, func(c *Config, d *Deps) {
		c.TLSAlways = true
		d.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	})
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("https://" + f.HTTPAddr().String() + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || !strings.HasPrefix(f.URL(), "https://") {
		t.Errorf("status %d at %s", resp.StatusCode, f.URL())
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	f := serve(t)
	for _, path := range []string{"/livez", "/healthz"} {
		if status, _, _ := f.do(t, "GET", path, ""); status != 200 {
			t.Errorf("%s: %d", path, status)
		}
	}
	f.untilReady(t)
	f.untilKnown(t, "ready")
	f.report(t, &pb.ClusterResponse{Reason: "a stage is missing"})
	f.untilKnown(t, "a stage is missing")
	f.stop()
	<-f.draining.done
	if ok, why := f.Ready(); ok || why["gateway"] != drainText {
		t.Errorf("ready %v, %v while draining", ok, why)
	}
}

// untilKnown waits until Ready gives this word about the coordinator.
func (f *front) untilKnown(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		ok, why := f.Ready()
		if why["coordinator"] == want && ok == (want == "ready") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("ready %v, %v; want %q", ok, why, want)
		}
	}
}

// report makes the coordinator say c, and the gateway forget what it knew before.
func (f *front) report(t *testing.T, c *pb.ClusterResponse) {
	t.Helper()
	f.fake.report(c)
	if _, _, err := f.cluster.within(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// untilReady waits until /readyz says so.
func (f *front) untilReady(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		status, _, body := f.do(t, "GET", "/readyz", "")
		if status == 200 && body == "{\"ready\":true}\n" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("status %d, %s", status, body)
		}
	}
}

func TestNotReady(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.APIKeys = []string{"sesame"} })
	f.report(t, &pb.ClusterResponse{
		Reason: "a stage is missing",
		Models: []*pb.ModelInfo{{Name: "tiny", State: "loading", Reason: "40 %"}},
		Nodes:  []*pb.NodeInfo{{Node: "ada", State: "ready"}, {Node: "bob", State: "lost"}},
	})
	read := func(headers ...string) (doc readiness) {
		status, header, body := f.do(t, "GET", "/readyz?verbose", "", headers...)
		if err := json.Unmarshal([]byte(body), &doc); err != nil || status != 503 || header.Get("Retry-After") == "" {
			t.Fatalf("status %d, %s", status, body)
		}
		return doc
	}
	if doc := read(); doc.Ready || doc.Reasons != nil || doc.Nodes != nil {
		t.Errorf("a stranger reads %+v", doc)
	}
	want := []string{"a stage is missing", "model tiny: loading (40 %)", "node bob: lost"}
	for end := time.Now().Add(patience); ; {
		doc := read("Authorization", "Bearer sesame")
		if slices.Equal(doc.Reasons, want) && len(doc.Nodes) == 2 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("reasons %q", doc.Reasons)
		}
	}
}

// Without a coordinator everything says so, and nothing hangs.
func TestNoCoordinator(t *testing.T) {
	t.Parallel()
	f := serve(t)
	f.breakForGood(t)
	status, _, body := f.post(t, chatPath, chatBody(""))
	if e := parseError(t, body); status != 503 || e.Error.Code != "coordinator_unavailable" {
		t.Errorf("status %d, %s", status, body)
	}
	if status, _, body := f.do(t, "GET", "/v1/models", ""); status != 503 {
		t.Errorf("status %d, %s", status, body)
	}
	if status, _, body := f.do(t, "GET", "/readyz", ""); status != 503 || !strings.Contains(body, "no coordinator answers") {
		t.Errorf("status %d, %s", status, body)
	}
}

func TestGenerationLimit(t *testing.T) {
	f := serve(t, func(c *Config, _ *Deps) { c.Limits.Generations = 1 })
	f.fake.set((*fakeGeneration).silent)
	p := f.dial(t, nil)
	p.send(`{"prompt":"think"}`)
	f.next(t)
	if status, header, body := f.post(t, chatPath, chatBody("")); status != 429 || header.Get("Retry-After") == "" || parseError(t, body).Error.Code != "rate_limit_exceeded" {
		t.Errorf("status %d, %s", status, body)
	}
}

// The coordinator is held to its promises; a generation it breaks ends with an
// error and a stop.
func TestCoordinatorIsHeldToLaw(t *testing.T) {
	for name, script := range map[string]func(*fakeGeneration){
		"a gap":          func(g *fakeGeneration) { g.accept(); g.send(g.number, tokenEvent(1, "a"), tokenEvent(3, "c")) },
		"a repeat":       func(g *fakeGeneration) { g.accept(); g.send(g.number, tokenEvent(1, "a"), tokenEvent(1, "a")) },
		"no credit left": func(g *fakeGeneration) { g.accept(); g.flood(100_000) },
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			f.fake.set(script)
			status, _, body := f.post(t, chatPath, chatBody(""))
			if status != 500 || parseError(t, body).Error.Code != "internal_error" {
				t.Errorf("status %d, %s", status, body)
			}
			f.next(t).wantStop(t, "client")
		})
	}
}

// flood ignores its credit.
func (g *fakeGeneration) flood(n int) {
	events := make([]*pb.Event, n)
	for i := range events {
		events[i] = tokenEvent(uint64(i+1), "x")
	}
	g.send(g.number, events...)
}

func TestPageIsServed(t *testing.T) {
	f := serve(t)
	for path, kind := range map[string]string{"/": "text/html", "/console/console.js": "text/javascript", "/console/console.css": "text/css"} {
		status, header, body := f.do(t, "GET", path, "")
		if status != 200 || !strings.HasPrefix(header.Get("Content-Type"), kind) || body == "" {
			t.Errorf("%s: status %d, %s", path, status, header.Get("Content-Type"))
		}
		csp := header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q", path, csp)
		}
		if path == "/" {
			for _, m := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(body, -1) {
				if !strings.HasPrefix(m[1], "console/") && !strings.HasPrefix(m[1], "data:") {
					t.Errorf("the page loads %s", m[1])
				}
			}
		}
		if status, _, _ := f.do(t, "GET", path, "", "If-None-Match", header.Get("ETag")); status != 304 {
			t.Errorf("%s again: status %d", path, status)
		}
	}
}
