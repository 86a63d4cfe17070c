package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestBadInputsNameTheirTests: every test that docs/bad-inputs.md names is there,
// in the folder that the row or the text above the table gives, and every row has
// one.
func TestBadInputsNameTheirTests(t *testing.T) {
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "bad-inputs.md"))
	if err != nil {
		t.Fatal(err)
	}
	var (
		row    = regexp.MustCompile(`^\| ([A-Z]{1,2}\d{2}) \|`)
		above  = regexp.MustCompile("^In \\[`([a-z/0-9]+)`\\]")
		named  = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`")
		within = regexp.MustCompile("in `([a-z/0-9]+)`")
	)
	usual, rows := "", 0
	for line := range strings.Lines(string(text)) {
		if m := above.FindStringSubmatch(line); m != nil {
			usual = m[1]
		}
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		rows++
		cells := strings.Split(strings.TrimSpace(line), " | ")
		found := 0
		for part := range strings.SplitSeq(cells[len(cells)-1], ";") {
			folder := usual
			if in := within.FindStringSubmatch(part); in != nil {
				folder = in[1]
			}
			for _, name := range named.FindAllStringSubmatch(part, -1) {
				found++
				if !hasTest(t, filepath.Join(root, folder), name[1]) {
					t.Errorf("row %s: there is no %s in %s", m[1], name[1], folder)
				}
			}
		}
		if found == 0 {
			t.Errorf("row %s names no test", m[1])
		}
	}
	if rows < 86 {
		t.Errorf("the tables have %d rows", rows)
	}
}

// hasTest reports whether a test file of a folder declares that function.
func hasTest(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
