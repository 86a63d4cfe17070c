// Package built serves files that web/ has built and the program holds.
package built

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"time"
)

var types = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
}

// Files are the files of a folder, by name. They may be served from any goroutine.
type Files map[string]http.Handler

// New reads the files of folder dist. Extra headers go out with each. It panics
// where the folder is none, for that is part of the program.
func New(files embed.FS, extra map[string]string) Files {
	const folder = "dist"
	entries, err := files.ReadDir(folder)
	if err != nil {
		panic(err)
	}
	out := Files{}
	for _, e := range entries {
		data, err := files.ReadFile(folder + "/" + e.Name())
		if err != nil {
			panic(err)
		}
		out[e.Name()] = newFile(e.Name(), data, extra)
	}
	return out
}

// Named returns the handler of one file, which has to be there.
func (f Files) Named(name string) http.HandlerFunc { return f[name].ServeHTTP }

// ByPath serves the file that the path's {file} names; what is none goes to missing.
func (f Files) ByPath(missing http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if h := f[r.PathValue("file")]; h != nil {
			h.ServeHTTP(w, r)
			return
		}
		missing(w, r)
	}
}

func newFile(name string, data []byte, extra map[string]string) http.Handler {
	sum := sha256.Sum256(data)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", types[path.Ext(name)])
		h.Set("Cache-Control", "no-cache") // the tag is asked for each time
		h.Set("ETag", tag)
		for k, v := range extra {
			h.Set(k, v)
		}
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(data))
	})
}
