// Package sdk holds the built JavaScript packages that the gateway serves under
// /sdk/: pages import them without a bundler or a registry. `make web` builds
// them from web/packages.
package sdk

import (
	"embed"
	"net/http"

	"github.com/shoal-llm/shoal/services/gateway/built"
)

//go:embed dist/*.js
var files embed.FS

// Handler serves one file by the name in the path, as /sdk/{file}; what is not
// one of them goes to missing.
func Handler(missing http.HandlerFunc) http.HandlerFunc { return built.New(files, nil).ByPath(missing) }
