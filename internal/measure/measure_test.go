package measure

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
)

func TestSaveMergesByName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m", "x.json")
	for _, figures := range [][]Figure{{{Name: "a", Value: 1}, {Name: "b", Value: 2}}, {{Name: "a", Value: 3}}} {
		if err := Save(path, figures); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Load(path)
	if err != nil || len(got) != 2 || got[0].Value != 3 || got[1].Value != 2 || got[0].Date == "" {
		t.Errorf("figures = %+v, %v", got, err)
	}
}

func TestAddCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.json")
	for range 3 {
		if err := Add(path, []Figure{{Name: "kills", Value: 2, Runs: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Load(path)
	if f := Find(got, "kills"); err != nil || f == nil || f.Value != 6 || f.Runs != 3 {
		t.Errorf("figures = %+v, %v", got, err)
	}
	if Find(got, "other") != nil {
		t.Error("a figure was found that is not there")
	}
}

func TestFill(t *testing.T) {
	dir := t.TempDir()
	if err := Save(filepath.Join(dir, "x.json"), []Figure{{Name: "speed", Value: 12.34, Unit: "tokens/s", Ratio: 2}}); err != nil {
		t.Fatal(err)
	}
	got, err := Fill("before\n<!-- figures: x -->\nold\n<!-- end of figures -->\nafter\n", dir)
	if err != nil || !strings.Contains(got, "| speed | 12.3 tokens/s | 2.00 |") || strings.Contains(got, "old") ||
		!strings.HasPrefix(got, "before\n") || !strings.HasSuffix(got, "\nafter\n") {
		t.Errorf("filled to %q, %v", got, err)
	}
	if _, err := Fill("<!-- figures: x -->\n", dir); err == nil {
		t.Error("a marker that is not closed was accepted")
	}
}

// TestDocumentsShowTheFigures holds the tables of the documents against the
// measurement files.
func TestDocumentsShowTheFigures(t *testing.T) {
	for _, doc := range Documents {
		path := filepath.Join(golden.Root(), doc)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Fill(string(b), filepath.Join(golden.Root(), "docs", "measurements"))
		if err != nil {
			t.Fatalf("%s: %v", doc, err)
		}
		if want != string(b) {
			t.Errorf("%s does not show docs/measurements: run `make docs`", doc)
		}
	}
}

// TestRows: a line for each row, in the order of the figures, with an empty cell where
// a row has no such figure.
func TestRows(t *testing.T) {
	got := Rows([]Figure{{Name: "a.bytes", Value: 5, Unit: "B"}, {Name: "alone", Value: 1}, {Name: "b.kl_run", Value: 0.25}, {Name: "b.bytes", Value: 7, Unit: "B"}})
	want := "| | bytes (B) | kl run |\n|---|--:|--:|\n| a | 5 |  |\n| b | 7 | 0.25 |\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
