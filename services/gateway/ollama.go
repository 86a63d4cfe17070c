package gateway

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// The Ollama API, on a listener of its own: its clients look for it on a port
// of theirs, and its errors have another shape.

// ollamaWriter marks answers whose errors have Ollama's shape.
type ollamaWriter struct{ http.ResponseWriter }

// Unwrap lets http.ResponseController find the connection.
func (w ollamaWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// isOllama reports whether errors written to w have Ollama's shape.
func isOllama(w http.ResponseWriter) bool {
	for {
		switch inner := w.(type) {
		case ollamaWriter:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = inner.Unwrap()
		default:
			return false
		}
	}
}

type ollamaError struct {
	Error string `json:"error"`
}

// newOllamaServer makes the server of the Ollama listener.
func (g *Gateway) newOllamaServer(tlsConfig *tls.Config) *http.Server {
	guarded := g.guard(g.ollamaRoutes())
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			guarded.ServeHTTP(ollamaWriter{w}, r)
		}),
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// ollamaRoutes is every path of the Ollama listener.
func (g *Gateway) ollamaRoutes() *router {
	mux := newRouter()
	get, post := []string{http.MethodGet, http.MethodHead}, []string{http.MethodPost}
	keyed := func(pattern string, methods []string, h http.HandlerFunc) {
		mux.handle(pattern, methods, g.keyed(h))
	}
	mux.handle("/{$}", get, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("Ollama is running")) // clients look for these words
	})
	mux.handle("/api/version", get, g.ollamaVersion)
	keyed("/api/tags", get, g.ollamaTags)
	keyed("/api/ps", get, g.ollamaRunning)
	keyed("/api/show", post, g.ollamaShow)
	keyed("/api/pull", post, g.ollamaPull)
	keyed("/api/generate", post, g.answering(g.ollamaGenerate))
	keyed("/api/chat", post, g.answering(g.ollamaChat))
	keyed("/api/embed", post, g.answering(g.ollamaEmbed))
	mux.HandleFunc("/", notFound)
	return mux
}

func (g *Gateway) ollamaVersion(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"version": g.config.Version})
}

// latest is the tag that Ollama's clients add to names without one.
const latest = ":latest"

// ollamaModel is a model as the lists show it.
type ollamaModel struct {
	Name       string        `json:"name"`
	Model      string        `json:"model"`
	ModifiedAt string        `json:"modified_at,omitempty"`
	Size       uint64        `json:"size"`
	Digest     string        `json:"digest"`
	Details    ollamaDetails `json:"details"`
	ExpiresAt  string        `json:"expires_at,omitempty"`
	SizeVRAM   *uint64       `json:"size_vram,omitempty"`
	Context    uint32        `json:"context_length,omitempty"`
}

type ollamaDetails struct {
	ParentModel       string   `json:"parent_model"`
	Format            string   `json:"format"`
	Family            string   `json:"family"`
	Families          []string `json:"families"`
	ParameterSize     string   `json:"parameter_size"`
	QuantizationLevel string   `json:"quantization_level"`
}

func ollamaDetailsOf(m *pb.ModelInfo) ollamaDetails {
	return ollamaDetails{
		Format: "gguf", Family: m.GetArchitecture(), Families: []string{m.GetArchitecture()},
		QuantizationLevel: m.GetPrecision(),
	}
}

func ollamaModelOf(m *pb.ModelInfo) ollamaModel {
	name := m.GetName() + latest
	return ollamaModel{Name: name, Model: name, Size: m.GetSize(), Digest: m.GetDigest(), Details: ollamaDetailsOf(m)}
}

// ollamaModels returns what the cluster serves; on an error it has answered.
func (g *Gateway) ollamaModels(w http.ResponseWriter, r *http.Request) ([]*pb.ModelInfo, bool) {
	state, err := g.cluster.state(r.Context())
	if err != nil {
		errNoCoordinator.write(w)
		return nil, false
	}
	return state.GetModels(), true
}

func (g *Gateway) ollamaTags(w http.ResponseWriter, r *http.Request) {
	models, ok := g.ollamaModels(w, r)
	if !ok {
		return
	}
	list := []ollamaModel{}
	for _, m := range models {
		o := ollamaModelOf(m)
		o.ModifiedAt = time.Unix(m.GetCreated(), 0).UTC().Format(time.RFC3339)
		list = append(list, o)
	}
	writeJSON(w, http.StatusOK, map[string]any{"models": list})
}

// forever is when a loaded model is thrown out: not at all.
var forever = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC).Format(time.RFC3339)

func (g *Gateway) ollamaRunning(w http.ResponseWriter, r *http.Request) {
	models, ok := g.ollamaModels(w, r)
	if !ok {
		return
	}
	list := []ollamaModel{}
	for _, m := range models {
		if m.GetState() == "ready" {
			o := ollamaModelOf(m)
			o.ExpiresAt, o.Context, o.SizeVRAM = forever, m.GetContext(), new(uint64)
			list = append(list, o)
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"models": list})
}

// findModel finds a model by the name a client uses, with or without a tag. An
// empty name is the first model.
func findModel(models []*pb.ModelInfo, name string) *pb.ModelInfo {
	for _, m := range models {
		for _, n := range []string{name, strings.TrimSuffix(name, latest)} {
			if n == "" || m.GetName() == n || slices.Contains(m.GetAliases(), n) || slices.Contains(m.GetAdapters(), n) {
				return m
			}
		}
	}
	return nil
}

func (g *Gateway) ollamaShow(w http.ResponseWriter, r *http.Request) {
	name, _, p := g.readOllamaName(w, r)
	if p != nil {
		p.write(w)
		return
	}
	models, ok := g.ollamaModels(w, r)
	if !ok {
		return
	}
	m := findModel(models, name)
	if m == nil {
		noSuchModel(name, "model").write(w)
		return
	}
	capabilities := []string{"completion", "embedding"}
	if m.GetPictureRows() > 0 {
		capabilities = append(capabilities, "vision")
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"modelfile": "", "parameters": "", "template": "",
		"details":      ollamaDetailsOf(m),
		"capabilities": capabilities,
		"modified_at":  time.Unix(m.GetCreated(), 0).UTC().Format(time.RFC3339),
		"model_info": map[string]any{
			"general.architecture":                  m.GetArchitecture(),
			m.GetArchitecture() + ".context_length": m.GetContext(),
			m.GetArchitecture() + ".block_count":    m.GetLayers(),
		},
	})
}

// readOllamaName reads a request that names a model, and whether it streams.
func (g *Gateway) readOllamaName(w http.ResponseWriter, r *http.Request) (name string, stream bool, p *problem) {
	data, p := g.readBody(w, r)
	if p != nil {
		return "", false, p
	}
	o, err := parseObject(data)
	if err != nil {
		return "", false, problemOf(err)
	}
	name, ok := o.String("model", maxText)
	old, hasOld := o.String("name", maxText) // what older clients call it
	if name = orDefault(name, old); !ok && !hasOld || name == "" {
		o.Fail("model", "is missing")
	}
	stream = true
	if s, ok := o.Bool("stream"); ok {
		stream = s
	}
	o.Bool("verbose")
	o.Bool("insecure")
	if err := o.Err(); err != nil {
		return "", false, problemOf(err)
	}
	if err := checkModel(name, "model"); err != nil {
		return "", false, problemOf(err)
	}
	return name, stream, nil
}
