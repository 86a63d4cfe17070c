package gateway

import (
	"fmt"
	"net/http"
	"strings"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// pullProgress is a line of an answer of /api/pull. Lines about bytes have a
// digest, a total, and what of it is there.
type pullProgress struct {
	Status    string `json:"status"`
	Digest    string `json:"digest,omitempty"`
	Total     uint64 `json:"total,omitempty"`
	Completed uint64 `json:"completed,omitempty"`
}

// ollamaPull tells of a model that the cluster serves, in the words of a pull
// that has nothing left to do, and of any other where it could come from.
func (g *Gateway) ollamaPull(w http.ResponseWriter, r *http.Request) {
	name, stream, p := g.readOllamaName(w, r)
	if p != nil {
		p.write(w)
		return
	}
	models, ok := g.ollamaModels(w, r)
	if !ok {
		return
	}
	m := findModel(models, name)
	switch {
	case m == nil:
		errNotThere(name, models).write(w)
		return
	case m.GetState() == "failed":
		(&problem{code: codeNoCapacity, param: "model", message: fmt.Sprintf("The model %q is on this cluster and cannot be served: %s.", m.GetName(), m.GetReason())}).write(w)
		return
	case !stream:
		writeJSON(w, http.StatusOK, pullProgress{Status: "success"})
		return
	}
	lines := newLineWriter(w, g.config.Limits.WriteTimeout)
	defer lines.close()
	for _, line := range pullOf(m) {
		if lines.write(line) != nil {
			return
		}
	}
}

// pullOf is the progress of a pull whose bytes are all there.
func pullOf(m *pb.ModelInfo) []pullProgress {
	lines := []pullProgress{{Status: "pulling manifest"}}
	if digest := m.GetDigest(); digest != "" {
		lines = append(lines, pullProgress{
			Status: "pulling " + digest[:min(12, len(digest))], Digest: "sha256:" + digest, Total: m.GetSize(), Completed: m.GetSize(),
		})
	}
	for _, status := range []string{"verifying sha256 digest", "writing manifest", "success"} {
		lines = append(lines, pullProgress{Status: status})
	}
	return lines
}

// errNotThere names the next step to a model that the cluster does not serve.
func errNotThere(name string, models []*pb.ModelInfo) *problem {
	p := noSuchModel(name, "model")
	var served []string
	for _, m := range models {
		served = append(served, m.GetName())
	}
	if len(served) > 0 {
		p.message += " Served: " + strings.Join(served, ", ") + "."
	}
	p.message += " This gateway downloads nothing: to serve another model, put its GGUF file into the --models folder of the coordinator and its shards, and start the coordinator with --model NAME."
	return p
}
