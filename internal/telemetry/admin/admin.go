// Package admin is a node's listener for its operator: health, metrics and
// profiles. It is no place for users.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/shoal-llm/shoal/internal/telemetry"
)

// DefaultAddr is where a node's operator finds it.
const DefaultAddr = "127.0.0.1:9090"

// stopTimeout is how long requests in flight may take at the end.
const stopTimeout = 2 * time.Second

// Ready reports whether the node can do its work, and for each part that
// matters what state it is in. It is called by each request for /readyz, must be
// safe for that and must not block.
type Ready func() (ok bool, reasons map[string]string)

// Server is a bound admin listener.
type Server struct {
	listener net.Listener
	server   *http.Server
}

// New binds addr (host:port; port 0 takes a free one). Either Run or Close must
// be called. Its paths:
//
//	/livez, /healthz  200 while the process answers
//	/readyz           200 when ready says so, else 503; JSON with the reasons (when ready: with ?verbose)
//	/metrics          Prometheus
//	/debug/pprof/     profiles, to this machine only
//
// On a loopback address requests must name a loopback host, so that no web page
// reads it by rebinding its own name.
func New(addr string, ready Ready, tel *telemetry.Telemetry, log *slog.Logger) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("admin address %s is in use: stop the other program or choose another port", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("admin address %s: %w", addr, err)
	}
	var handler http.Handler = routes(ready, tel)
	if isLoopback(l.Addr().String()) {
		handler = onlyLoopbackNames(handler)
	}
	return &Server{listener: l, server: &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      3 * time.Minute, // profiles take their time
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// Addr is the bound address.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(s.listener) }()
	select {
	case err := <-served:
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("serve admin: %w", err)
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if s.server.Shutdown(deadline) != nil {
		s.server.Close() // what is left are profiles
	}
	<-served
	return nil
}

// Close frees the port of a server that is not run.
func (s *Server) Close() { s.listener.Close(); s.server.Close() }

func routes(ready Ready, tel *telemetry.Telemetry) *http.ServeMux {
	mux := http.NewServeMux()
	alive := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") }
	mux.HandleFunc("GET /livez", alive)
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /readyz", readyz(ready))
	mux.Handle("GET /metrics", tel.Handler())
	mux.HandleFunc("GET /debug/pprof/", onlyThisMachine(pprof.Index))
	mux.HandleFunc("GET /debug/pprof/cmdline", onlyThisMachine(pprof.Cmdline))
	mux.HandleFunc("GET /debug/pprof/profile", onlyThisMachine(pprof.Profile))
	mux.HandleFunc("GET /debug/pprof/symbol", onlyThisMachine(pprof.Symbol))
	mux.HandleFunc("GET /debug/pprof/trace", onlyThisMachine(pprof.Trace))
	return mux
}

func readyz(ready Ready) http.HandlerFunc {
	type answer struct {
		Ready   bool              `json:"ready"`
		Reasons map[string]string `json:"reasons,omitempty"`
	}
	return func(w http.ResponseWriter, r *http.Request) {
		ok, reasons := ready()
		if ok && !r.URL.Query().Has("verbose") {
			reasons = nil
		}
		w.Header().Set("Content-Type", "application/json")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(answer{Ready: ok, Reasons: reasons})
	}
}

// onlyThisMachine keeps profiles, which hold memory, from other machines.
func onlyThisMachine(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !isLoopback(r.RemoteAddr) {
			http.Error(w, "profiles are for this machine only", http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

// onlyLoopbackNames refuses requests whose Host is not this machine's own.
func onlyLoopbackNames(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if host != "localhost" && (err != nil || !ip.IsLoopback()) {
			http.Error(w, fmt.Sprintf("%q is not a name of this machine", r.Host), http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isLoopback(addr string) bool {
	ap, err := netip.ParseAddrPort(addr)
	return err == nil && ap.Addr().Unmap().IsLoopback()
}
