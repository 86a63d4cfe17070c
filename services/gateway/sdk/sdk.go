// Package sdk holds the built JavaScript packages that the gateway serves under
// /sdk/: pages import them without a bundler or a registry. `make web` builds
// them from web/packages.
package sdk

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"time"
)

//go:embed dist/*.js
var files embed.FS

// file is a script and the tag by which a browser knows that it has it.
type file struct {
	data []byte
	tag  string
}

// Handler serves one file by the name in the path, as /sdk/{file}; what is not
// one of them goes to missing.
func Handler(missing http.HandlerFunc) http.HandlerFunc {
	entries, err := files.ReadDir("dist")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	byName := map[string]file{}
	for _, e := range entries {
		data, err := files.ReadFile("dist/" + e.Name())
		if err != nil {
			panic(err) // as before
		}
		sum := sha256.Sum256(data)
		byName[e.Name()] = file{data, `"` + hex.EncodeToString(sum[:8]) + `"`}
	}
	return func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("file")
		f, ok := byName[name]
		if !ok {
			missing(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("Cache-Control", "no-cache") // the tag is asked for each time
		h.Set("ETag", f.tag)
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(f.data))
	}
}
