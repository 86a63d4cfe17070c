package gateway

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/shoal-llm/shoal/docs"
)

// description is the part of the OpenAPI document that is compared.
type description struct {
	Paths map[string]map[string]yaml.Node `yaml:"paths"`
}

// methodsOf lists the methods of a path's description, in capitals.
func methodsOf(item map[string]yaml.Node) (methods []string) {
	for name := range item {
		switch name {
		case "get", "post", "put", "delete", "patch":
			methods = append(methods, strings.ToUpper(name))
		}
	}
	slices.Sort(methods)
	return methods
}

// TestOpenAPIDescribesEveryRoute holds the document against the muxes, both
// ways. HEAD goes with GET and is not spelled out.
func TestOpenAPIDescribesEveryRoute(t *testing.T) {
	f := serve(t)
	served := map[string][]string{}
	for _, r := range []*router{f.routes(), f.ollamaRoutes()} {
		for pattern, methods := range r.methods {
			name := strings.NewReplacer("{$}", "", "...}", "}").Replace(pattern)
			var spelled []string
			for _, m := range methods {
				if m != http.MethodHead {
					spelled = append(spelled, m)
				}
			}
			slices.Sort(spelled)
			served[name] = spelled
		}
	}
	var doc description
	if err := yaml.Unmarshal(docs.OpenAPI, &doc); err != nil {
		t.Fatal(err)
	}
	for name, item := range doc.Paths {
		if got := methodsOf(item); !slices.Equal(got, served[name]) {
			t.Errorf("%s is described with %v, served with %v", name, got, served[name])
		}
	}
	for name, methods := range served {
		if _, ok := doc.Paths[name]; !ok {
			t.Errorf("%s %v is served and not described", name, methods)
		}
	}
}

func TestOpenAPIIsServed(t *testing.T) {
	f := serve(t)
	status, header, body := f.do(t, http.MethodGet, "/openapi.yaml", "")
	if status != 200 || header.Get("Content-Type") != "application/yaml" || body != string(docs.OpenAPI) {
		t.Errorf("status %d, %q, %d bytes", status, header.Get("Content-Type"), len(body))
	}
}
