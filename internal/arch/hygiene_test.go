package arch

import (
	"bytes"
	"go/ast"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
)

// TestDocumented asks every package for a comment and every exported name for one.
func TestDocumented(t *testing.T) {
	documented, packages := map[string]bool{}, map[string]bool{}
	for _, s := range sources(t) {
		if s.test() || strings.HasPrefix(s.pkg, "proto/") || generator(s) {
			continue
		}
		packages[s.pkg] = true
		documented[s.pkg] = documented[s.pkg] || s.ast.Doc != nil
		if ast.IsGenerated(s.ast) || s.ast.Name.Name == "main" {
			continue
		}
		for _, d := range s.ast.Decls {
			if name := undocumented(d); name != "" {
				t.Errorf("%s: exported %s has no comment", s.set.Position(d.Pos()), name)
			}
		}
	}
	for p := range packages {
		if !documented[p] {
			t.Errorf("package %s has no comment", p)
		}
	}
}

// undocumented returns the name of an exported declaration without a comment.
// Methods of unexported types and grouped values under one comment are fine.
func undocumented(d ast.Decl) string {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && d.Name.IsExported() && (d.Recv == nil || exportedType(d.Recv.List[0].Type)) {
			return d.Name.Name
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			if t, ok := spec.(*ast.TypeSpec); ok && t.Name.IsExported() && d.Doc == nil && t.Doc == nil && t.Comment == nil {
				return t.Name.Name
			}
		}
	}
	return ""
}

func exportedType(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.StarExpr:
		return exportedType(e.X)
	case *ast.Ident:
		return e.IsExported()
	case *ast.IndexExpr:
		return exportedType(e.X)
	}
	return false
}

// catchAll are names that say nothing about the problem.
var catchAll = []string{"util", "utils", "common", "helpers", "misc", "base", "types", "manager"}

func TestFoldersAreThingsOfTheProblem(t *testing.T) {
	for _, s := range sources(t) {
		for _, part := range strings.Split(s.pkg, "/") {
			for _, bad := range catchAll {
				if part == bad {
					t.Errorf("%s: a folder called %s", s.path, part)
				}
			}
		}
	}
}

// Limits of the repository, in bytes.
const (
	maxTestData = 28 << 20
	maxTree     = 48 << 20
)

// registries are host names of package registries, which lock files must not hold.
// They are put together here so that this file does not match itself.
var registries = []string{"registry.npmjs" + ".org", "pypi" + ".org", "files.python" + "hosted.org", "proxy.golang" + ".org", "crates" + ".io", "deb.debian" + ".org"}

func TestTreeStaysSmallAndClean(t *testing.T) {
	root := golden.Root()
	var tree, data int64
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); n == "node_modules" || n == "bin" || strings.HasPrefix(n, ".") && path != root && n != ".ci" {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		tree += info.Size()
		if strings.Contains(filepath.ToSlash(path), "/testdata/") {
			data += info.Size()
		}
		return checkText(t, path, info.Size())
	})
	if err != nil {
		t.Fatal(err)
	}
	if data > maxTestData || tree > maxTree {
		t.Errorf("test data are %d MiB (limit %d), the tree is %d MiB (limit %d)", data>>20, maxTestData>>20, tree>>20, maxTree>>20)
	}
}

// checkText looks for what no text file of the repository may hold.
func checkText(t *testing.T, path string, size int64) error {
	if size > 2<<20 {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil || bytes.IndexByte(b, 0) >= 0 {
		return err
	}
	for _, host := range registries {
		if bytes.Contains(b, []byte(host)) {
			t.Errorf("%s names the package registry %s", path, host)
		}
	}
	if bytes.Contains(b, []byte("PRIVATE KEY-----\n")) {
		t.Errorf("%s holds a private key", path)
	}
	return nil
}
