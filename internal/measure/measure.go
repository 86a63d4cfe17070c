// Package measure keeps measured figures: docs/measurements/NAME.json holds
// them, and the tables of the documents are made from there.
package measure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Figure is one measured value. Ratio is ours ÷ baseline for speeds and
// baseline ÷ ours for times: above 1 is better.
type Figure struct {
	Name     string  `json:"name"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	Baseline float64 `json:"baseline,omitempty"`
	Ratio    float64 `json:"ratio,omitempty"`
	Runs     int     `json:"runs"`
	Machine  string  `json:"machine"`
	Command  string  `json:"command"`
	Date     string  `json:"date"`
}

// Load reads the figures at path; a missing file has none.
func Load(path string) ([]Figure, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read figures: %w", err)
	}
	var figures []Figure
	if err := json.Unmarshal(b, &figures); err != nil {
		return nil, fmt.Errorf("read figures %s: %w", path, err)
	}
	return figures, nil
}

// Save merges figures into the file at path: those of the same name are
// replaced, others stay. It dates them today.
func Save(path string, figures []Figure) error {
	all, err := Load(path)
	if err != nil {
		return err
	}
	for _, f := range figures {
		f.Date = time.Now().UTC().Format(time.DateOnly)
		i := slices.IndexFunc(all, func(o Figure) bool { return o.Name == f.Name })
		if i < 0 {
			all = append(all, f)
		} else {
			all[i] = f
		}
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// Add is Save for figures that count: what the file has of the same name is added to
// them, and their runs are one more.
func Add(path string, figures []Figure) error {
	old, err := Load(path)
	if err != nil {
		return err
	}
	sums := slices.Clone(figures)
	for i := range sums {
		f := &sums[i]
		f.Runs = 1
		if o := Find(old, f.Name); o != nil {
			f.Value, f.Runs = f.Value+o.Value, o.Runs+1
		}
	}
	return Save(path, sums)
}

// Find returns the figure of a name, or nil.
func Find(figures []Figure, name string) *Figure {
	i := slices.IndexFunc(figures, func(f Figure) bool { return f.Name == name })
	if i < 0 {
		return nil
	}
	return &figures[i]
}

// Table renders figures as a Markdown table.
func Table(figures []Figure) string {
	var b strings.Builder
	b.WriteString("| figure | value | ratio | runs | machine | command |\n|---|--:|--:|--:|---|---|\n")
	for _, f := range figures {
		ratio := ""
		if f.Ratio != 0 {
			ratio = fmt.Sprintf("%.2f", f.Ratio)
		}
		fmt.Fprintf(&b, "| %s | %s %s | %s | %d | %s | `%s` |\n", f.Name, number(f.Value), f.Unit, ratio, f.Runs, f.Machine, f.Command)
	}
	return b.String()
}

// Rows renders figures whose names are ROW.COLUMN as a table with a line for each row.
// Figures of other names are left out.
func Rows(figures []Figure) string {
	var rows, columns []string
	cells, units := map[[2]string]string{}, map[string]string{}
	for _, f := range figures {
		i := strings.LastIndex(f.Name, ".")
		if i < 0 {
			continue
		}
		row, column := f.Name[:i], f.Name[i+1:]
		if !slices.Contains(rows, row) {
			rows = append(rows, row)
		}
		if !slices.Contains(columns, column) {
			columns = append(columns, column)
		}
		if cells[[2]string{row, column}] = number(f.Value); f.Unit != "" {
			units[column] = " (" + f.Unit + ")"
		}
	}
	var b strings.Builder
	b.WriteString("| |")
	for _, c := range columns {
		b.WriteString(" " + strings.ReplaceAll(c, "_", " ") + units[c] + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(columns)) + "\n")
	for _, r := range rows {
		b.WriteString("| " + r + " |")
		for _, c := range columns {
			b.WriteString(" " + cells[[2]string{r, c}] + " |")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// number prints three significant digits without an exponent.
func number(v float64) string {
	switch {
	case v >= 100 || v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

const (
	begin = "<!-- figures: "
	end   = "<!-- end of figures -->"
)

// Fill replaces what stands between the markers of doc,
//
//	<!-- figures: NAME -->
//	<!-- end of figures -->
//
// by the table of dir/NAME.json, and returns the new text. NAME may end with " by row".
func Fill(doc, dir string) (string, error) {
	var out strings.Builder
	for {
		i := strings.Index(doc, begin)
		if i < 0 {
			out.WriteString(doc)
			return out.String(), nil
		}
		head, tail, ok := strings.Cut(doc[i:], "-->\n")
		_, rest, closed := strings.Cut(tail, end)
		if !ok || !closed {
			return "", errors.New("a figures marker is not closed")
		}
		name := strings.TrimSpace(strings.TrimPrefix(head, begin))
		name, byRow := strings.CutSuffix(name, " by row")
		figures, err := Load(filepath.Join(dir, name+".json"))
		if err != nil {
			return "", err
		}
		table := Table(figures)
		if byRow {
			table = Rows(figures)
		}
		out.WriteString(doc[:i] + head + "-->\n" + table + end)
		doc = rest
	}
}

// Documents are the files whose tables are made from figures.
var Documents = []string{"README.md", "SECURITY.md", "docs/numbers.md", "docs/weights.md", "docs/kv.md"}

// Median returns the middle of v, or the mean of the two in the middle. v is not
// empty and is not changed.
func Median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
