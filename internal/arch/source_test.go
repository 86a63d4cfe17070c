package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
)

const module = "github.com/shoal-llm/shoal/"

// source is a parsed Go file of the repository.
type source struct {
	path string // relative to the root, with slashes
	pkg  string // its folder
	ast  *ast.File
	set  *token.FileSet
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// sources parses every Go file. Reading them in process keeps the test cache
// honest: it notices when one changes.
func sources(t *testing.T) []source {
	t.Helper()
	root := golden.Root()
	var out []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "node_modules" || name == "testdata" || strings.HasPrefix(name, ".") && path != root) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		out = append(out, source{path: rel, pkg: filepath.ToSlash(filepath.Dir(rel)), ast: f, set: set})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("only %d Go files found under %s", len(out), root)
	}
	return out
}

// imports returns the packages of this module that the file imports.
func (s source) imports() []string {
	var out []string
	for _, i := range s.ast.Imports {
		path := strings.Trim(i.Path.Value, `"`)
		if rel, ok := strings.CutPrefix(path, module); ok {
			out = append(out, rel)
		}
	}
	return out
}
