package gateway

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/services/gateway/page"
	"github.com/shoal-llm/shoal/services/gateway/sdk"
)

// Bounds of a connection that are not the operator's to choose.
const (
	headerTimeout  = 10 * time.Second
	bodyTimeout    = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	maxRequestID   = 128
)

func (g *Gateway) newHTTPServer(tlsConfig *tls.Config) *http.Server {
	return &http.Server{
		Handler:           g.guard(g.routes()),
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// routes is every path of the public listener. What is not here does not exist
// there: metrics, profiles and management have a listener of their own.
func (g *Gateway) routes() *router {
	mux := newRouter()
	get := []string{http.MethodGet, http.MethodHead}
	open := func(pattern string, h http.HandlerFunc) { mux.handle(pattern, get, h) }
	keyed := func(pattern string, methods []string, h http.HandlerFunc) {
		mux.handle(pattern, methods, g.keyed(h))
	}
	open("/livez", g.live)
	open("/healthz", g.live)
	open("/readyz", g.ready)
	open("/openapi.yaml", openAPI)
	document, file := page.Handlers(notFound)
	open("/{$}", document)
	open("/console/{file}", file)
	open("/sdk/{file}", sdk.Handler(notFound))
	mux.handle("/streaming", []string{http.MethodGet, http.MethodPost}, g.ticketed(g.streaming))
	mux.handle("/v1/cluster/stream", []string{http.MethodGet}, g.ticketed(g.clusterStream))
	keyed("/v1/cluster", get, g.clusterReport)
	keyed("/v1/ws-ticket", []string{http.MethodPost}, g.ticket)
	keyed("/v1/cancel/{id...}", []string{http.MethodPost}, g.cancel)
	for _, base := range []string{"/v1", ""} { // clients disagree about the base
		keyed(base+"/chat/completions", []string{http.MethodPost}, g.answering(g.chat))
		keyed(base+"/completions", []string{http.MethodPost}, g.answering(g.completions))
		keyed(base+"/embeddings", []string{http.MethodPost}, g.answering(g.embeddings))
		keyed(base+"/models", get, g.models)
		keyed(base+"/models/{id...}", get, g.model)
	}
	mux.HandleFunc("/", notFound)
	return mux
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	(&problem{code: codeNotFound, message: "There is nothing at this address."}).write(w)
}

// only refuses other methods than those listed.
func only(methods []string, next http.HandlerFunc) http.HandlerFunc {
	allow := strings.Join(methods, ", ")
	return func(w http.ResponseWriter, r *http.Request) {
		for _, m := range methods {
			if r.Method == m {
				next(w, r)
				return
			}
		}
		w.Header().Set("Allow", allow)
		(&problem{code: codeMethod, message: "This address takes " + allow + " only."}).write(w)
	}
}

// keyed lets in those who have a key, when keys are asked for, and notes who
// they are.
func (g *Gateway) keyed(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, refused := g.access.holderOf(keyOf(r))
		if refused != nil {
			refused.write(w)
			return
		}
		who.id = requestIDOf(r)
		ctx := telemetry.Extract(r.Context(), r.Header.Get("traceparent"))
		next(w, r.WithContext(withCaller(ctx, who)))
	}
}

// requestIDOf returns the id a client gave its request, if it can be repeated
// safely.
func requestIDOf(r *http.Request) string {
	id := r.Header.Get(requestIDHeader)
	if len(id) > maxRequestID || !printable(id) {
		return ""
	}
	return id
}

// newRequestID makes an id that looks like a trace's, for a request without one.
func newRequestID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func (g *Gateway) refuseWhenDraining(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if g.isDraining() {
			errDraining.write(w)
			return
		}
		next(w, r)
	}
}

// guard stands before every route: it checks Host and Origin, answers
// preflights, and writes the access log.
func (g *Gateway) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		log := &loggedWriter{ResponseWriter: w, status: http.StatusOK}
		// A deadline of the connection's last answer is not this one's.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set(requestIDHeader, orDefault(requestIDOf(r), newRequestID())) // until a trace has one
		if r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 {
			// If the request had a length too, a proxy in front may see another end
			// of it than we do (RFC 9112, section 6.3): nothing may follow.
			w.Header().Set("Connection", "close")
		}
		if g.admit(log, r) {
			next.ServeHTTP(log, r)
		}
		g.log.LogAttrs(r.Context(), levelOf(r), "request",
			slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", log.status),
			slog.Duration("took", time.Since(began)), slog.String("remote", r.RemoteAddr),
			slog.String("request", w.Header().Get(requestIDHeader)))
	})
}

// levelOf keeps probes and the page's files out of the ordinary log.
func levelOf(r *http.Request) slog.Level {
	if r.Method == http.MethodGet && r.URL.Path != "/streaming" {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// admit answers requests that no route may see, and reports whether r goes on.
func (g *Gateway) admit(w http.ResponseWriter, r *http.Request) bool {
	if p := g.access.checkHost(r); p != nil {
		p.write(w)
		return false
	}
	cross, p := g.access.checkOrigin(r)
	if p != nil {
		p.write(w)
		return false
	}
	if cross {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		h.Set("Access-Control-Expose-Headers", requestIDHeader)
		h.Add("Vary", "Origin")
		if r.Method == http.MethodOptions {
			h.Set("Access-Control-Allow-Methods", "GET, POST")
			h.Set("Access-Control-Allow-Headers", strings.Join([]string{
				"Authorization", "Content-Type", requestIDHeader, timeoutHeader, idempotencyHeader, lastEventHeader,
			}, ", "))
			h.Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return false
		}
	}
	if clean := path.Clean(r.URL.Path); clean != r.URL.Path {
		notFound(w, r) // rather than a redirect
		return false
	}
	return true
}

// readBody reads a request's body within its bounds.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *problem) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout))
	defer control.SetReadDeadline(time.Time{})
	data, err := g.readBulk(r.Context(), http.MaxBytesReader(w, r.Body, g.config.Limits.Body), func() {}) // which has a deadline
	var tooBig *http.MaxBytesError
	switch {
	case err == nil:
		return data, nil
	case errors.As(err, &tooBig):
		return nil, &problem{code: codeTooLong, status: http.StatusRequestEntityTooLarge, message: "The request is larger than this server reads."}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &problem{code: codeTimeout, message: "The request did not arrive in time."}
	}
	return nil, &problem{code: codeInvalid, message: "The request could not be read to its end."}
}

// loggedWriter remembers the status for the log.
type loggedWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status.
func (w *loggedWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find the connection.
func (w *loggedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack hands the connection to the WebSocket.
func (w *loggedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.status = http.StatusSwitchingProtocols
	return http.NewResponseController(w.ResponseWriter).Hijack()
}
