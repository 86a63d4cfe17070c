package arch

import (
	"strings"
	"testing"
)

// layers runs from the top down. A package may import lower layers and its own
// entry, never up and never sideways.
var layers = [][]string{
	{"cmd", "client"},
	{"services/gateway", "services/coordinator", "services/shard"},
	{"internal"},
	{"proto"},
	{"pkg/engine", "pkg/vision"},
	{"pkg/model", "pkg/kv"},
	{"pkg/compute", "pkg/gguf", "pkg/safetensors"},
	{"pkg/template"},
	{"pkg/frame", "pkg/token"},
	{"pkg/quant", "pkg/sample", "pkg/grammar"},
	{"pkg/tensor", "pkg/filemap"},
	{"models/tiny", "docs"},
}

// wired packages are chosen at the top and handed down as values. Each names
// who may import it besides its own tests and folder.
var wired = map[string][]string{
	"pkg/compute/cpu":    {"cmd/shoal", "cmd/shoal-gpu"},
	"pkg/compute/webgpu": {"cmd/shoal-gpu"},
	"pkg/model/archs":    {"internal/library", "internal/synthetic"},
	"pkg/quant/formats":  {"internal/library", "internal/synthetic", "cmd/shoal", "cmd/shoal-gpu", "pkg/gguf", "pkg/compute/webgpu"},
	"models/tiny":        {"internal/library"},
}

func layerOf(pkg string) (int, string) {
	for i, entries := range layers {
		for _, e := range entries {
			if pkg == e || strings.HasPrefix(pkg, e+"/") {
				return i, e
			}
		}
	}
	return -1, ""
}

func TestLayers(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() || strings.HasSuffix(s.pkg, "test") || s.ast.Name.Name == "main" && !strings.HasPrefix(s.pkg, "cmd/") {
			continue // tests and generators may look everywhere
		}
		from, own := layerOf(s.pkg)
		if from < 0 {
			t.Errorf("%s: %s has no place in the layers", s.path, s.pkg)
			continue
		}
		for _, to := range s.imports() {
			layer, entry := layerOf(to)
			if layer < from || layer == from && entry != own {
				t.Errorf("%s must not import %s: imports run downwards", s.path, to)
			}
			if who, ok := wired[to]; ok && !contains(who, s.pkg) && !strings.HasPrefix(s.pkg, to) {
				t.Errorf("%s must not import %s: only %v may", s.path, to, who)
			}
		}
	}
}

// homes names the one package that may import each of these modules.
var homes = map[string]string{
	"github.com/hashicorp/memberlist": "internal/cluster",
	"github.com/hashicorp/mdns":       "internal/lan",
	"github.com/coder/websocket":      "services/gateway",
	"github.com/ardanlabs/jinja":      "pkg/template",
	"github.com/spf13/cobra":          "cmd",
	"github.com/knadh/koanf":          "cmd/shoal",
	"github.com/mmcloughlin/avo":      "internal/p16gen",
	"go.opentelemetry.io/":            "internal/telemetry",
	"golang.org/x/image":              "pkg/vision",
}

func TestDependenciesHaveOneHome(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		for _, i := range s.ast.Imports {
			path := strings.Trim(i.Path.Value, `"`)
			for dep, home := range homes {
				if strings.HasPrefix(path, dep) && s.pkg != home && !strings.HasPrefix(s.pkg, home+"/") && !generator(s) {
					t.Errorf("%s imports %s, which belongs to %s", s.path, path, home)
				}
			}
		}
	}
}

// generator reports whether a file is a program that writes code, outside every
// build.
func generator(s source) bool {
	for _, group := range s.ast.Comments {
		for _, c := range group.List {
			if c.Pos() < s.ast.Package && strings.HasPrefix(c.Text, "//go:build ignore") {
				return true
			}
		}
	}
	return false
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s || strings.HasPrefix(s, e+"/") {
			return true
		}
	}
	return false
}
