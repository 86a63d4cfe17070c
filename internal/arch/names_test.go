package arch

import (
	"go/ast"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/model/archs"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// backends are the folders of pkg/compute that are backends.
var backends = []string{"cpu", "webgpu"}

// homeless lists the places that may name architectures, formats or backends
// besides their own folders, with the reason.
var homeless = map[string]string{
	"pkg/model/archs":    "the list of architectures",
	"pkg/quant/formats":  "the list of formats",
	"cmd/shoal":          "the list of backends",
	"internal/synthetic": "models that are made up have an architecture and a format",
	"bench/families":     "a benchmark of each architecture",
	"bench/weights":      "a large model that is made up has an architecture and a format",
	"pkg/token":          "files name kinds of tokenizers by architectures",
	"pkg/safetensors":    "files name types of values by formats",

	"internal/library/checkpoint": "the list of what frameworks call architectures",
}

// TestNamesStayInTheirFolders keeps the promise that a new architecture, format
// or backend is one folder and one line: nothing else may ask for one by name.
func TestNamesStayInTheirFolders(t *testing.T) {
	home := map[string]string{}
	for _, a := range archs.All() {
		home[strings.ToLower(a.Name)] = "pkg/model/"
	}
	for _, f := range formats.All() {
		home[strings.ToLower(f.Name)] = "pkg/quant/"
	}
	for _, b := range backends {
		home[b] = "pkg/compute/" + b
	}
	for _, s := range sources(t) {
		if s.test() || strings.HasSuffix(s.pkg, "test") || homeless[s.pkg] != "" || generator(s) || s.pkg == "internal/p16gen" {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				return true
			}
			if h, named := home[strings.ToLower(text)]; named && !strings.HasPrefix(s.pkg, h) {
				t.Errorf("%s: %s is named outside its folder and its list", s.set.Position(lit.Pos()), lit.Value)
			}
			return true
		})
	}
}
