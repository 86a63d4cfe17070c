// Package page is the console that the gateway serves at /: a chat, and the cluster
// behind it. `make web` builds its files from web/apps/console; nothing comes from
// elsewhere. It speaks the rich protocol of /streaming and /v1/cluster/stream, as any
// other client would.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"time"
)

//go:embed dist
var files embed.FS

// policy lets the page load its own files and talk to its own server, and nothing
// else. The icon is in the document.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const document = "index.html"

var types = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
}

// Document returns the handler of the document itself.
func Document() http.HandlerFunc { return serve(document) }

// Handler serves one of the document's files by the name in the path, as
// /console/{file}; what is not one of them goes to missing.
func Handler(missing http.HandlerFunc) http.HandlerFunc {
	entries, err := files.ReadDir("dist")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	byName := map[string]http.HandlerFunc{}
	for _, e := range entries {
		if e.Name() != document {
			byName[e.Name()] = serve(e.Name())
		}
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if h := byName[r.PathValue("file")]; h != nil {
			h(w, r)
			return
		}
		missing(w, r)
	}
}

func serve(name string) http.HandlerFunc {
	data, err := files.ReadFile("dist/" + name)
	if err != nil {
		panic(err) // the file is part of the program
	}
	sum := sha256.Sum256(data)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", types[path.Ext(name)])
		h.Set("Cache-Control", "no-cache") // the tag is asked for each time
		h.Set("ETag", tag)
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(data))
	}
}
