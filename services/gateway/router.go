package gateway

import "net/http"

// router is a mux that remembers which methods each of its paths takes, so that
// the OpenAPI document can be held against it.
type router struct {
	*http.ServeMux
	methods map[string][]string // by pattern
}

func newRouter() *router { return &router{http.NewServeMux(), map[string][]string{}} }

// handle serves a pattern, and refuses other methods than those listed.
func (m *router) handle(pattern string, methods []string, h http.HandlerFunc) {
	m.methods[pattern] = methods
	m.Handle(pattern, only(methods, h))
}
