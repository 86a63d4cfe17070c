// Package page is the console that the gateway serves at /: a chat, and the cluster
// behind it. `make web` builds its files from web/apps/console; nothing comes from
// elsewhere. It speaks the rich protocol of /streaming and /v1/cluster/stream, as any
// other client would.
package page

import (
	"embed"
	"maps"
	"net/http"

	"github.com/shoal-llm/shoal/services/gateway/built"
)

//go:embed dist
var files embed.FS

// policy lets the page load its own files and talk to its own server, and nothing
// else. The icon is in the document.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const name = "index.html"

// Handlers returns the handler of the document, and that of its files by the name in
// the path, as /console/{file}; what is not one of them goes to missing.
func Handlers(missing http.HandlerFunc) (document, file http.HandlerFunc) {
	all := built.New(files, map[string]string{"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})
	rest := maps.Clone(all)
	delete(rest, name)
	return all.Named(name), rest.ByPath(missing)
}
