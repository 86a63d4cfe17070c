package gateway

import (
	"net/http"

	"github.com/shoal-llm/shoal/docs"
)

// openAPI serves the description of this API.
func openAPI(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/yaml")
	h.Set("Cache-Control", "no-cache")
	_, _ = w.Write(docs.OpenAPI) // a client that is gone does not read it
}
