// Package page is the plain page of the gateway: one document, one script, one
// style sheet, nothing from elsewhere. It speaks the plain protocol of
// /streaming, as any other client would.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"time"
)

//go:embed index.html page.js page.css
var files embed.FS

// policy lets the page load its own three files and talk to its own server,
// and nothing else. The icon is in the document.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handlers returns the page's files by path.
func Handlers() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"/{$}":           serve("index.html", "text/html; charset=utf-8"),
		"/page/page.js":  serve("page.js", "text/javascript; charset=utf-8"),
		"/page/page.css": serve("page.css", "text/css; charset=utf-8"),
	}
}

func serve(name, contentType string) http.HandlerFunc {
	data, err := files.ReadFile(name)
	if err != nil {
		panic(err) // the file is part of the program
	}
	sum := sha256.Sum256(data)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Cache-Control", "no-cache") // the tag is asked for each time
		h.Set("ETag", tag)
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(data))
	}
}
