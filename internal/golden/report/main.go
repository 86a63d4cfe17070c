// Command report reads the output of `go test -json` on the tests of reference
// data and prints what failed, and what was skipped because it is not built yet.
// It ends with a count, and fails when a test failed or none ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
)

// event is a line of `go test -json`.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// tally is what the tests said.
type tally struct {
	passed, failed, skipped int
	said                    map[string][]string // lines by package and test
	reasons                 map[string][]string // skipped tests by reason
}

func main() {
	t := tally{said: map[string][]string{}, reasons: map[string][]string{}}
	if err := t.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	t.print(os.Stdout)
	if t.failed > 0 || t.passed == 0 {
		os.Exit(1)
	}
}

func (t *tally) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Println(lines.Text()) // a build error, perhaps
			continue
		}
		t.add(e)
	}
	return lines.Err()
}

func (t *tally) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		t.said[key] = append(t.said[key], e.Output)
	case "fail", "build-fail":
		t.failed++
		fmt.Print("FAIL  ", key, "\n", strings.Join(t.said[key], ""))
	case "pass":
		if e.Test != "" {
			t.passed++
		}
	case "skip":
		if e.Test != "" {
			t.skipped++
			reason := t.reason(key)
			t.reasons[reason] = append(t.reasons[reason], e.Test)
		}
	}
}

// reason is what a skipped test said last.
func (t *tally) reason(key string) string {
	why := "it does not say why"
	for _, line := range t.said[key] {
		if _, text, ok := strings.Cut(line, ".go:"); ok {
			_, text, _ = strings.Cut(text, ": ")
			why = strings.TrimSpace(text)
		}
	}
	return why
}

func (t *tally) print(w io.Writer) {
	var reasons []string
	for r := range t.reasons {
		reasons = append(reasons, r)
	}
	sort.Strings(reasons)
	for _, r := range reasons {
		fmt.Fprintf(w, "skipped  %s\n         %s\n", strings.Join(t.reasons[r], ", "), r)
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
}
