// Command record keeps one figure that a script has measured.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/shoal-llm/shoal/internal/measure"
)

func main() {
	file := flag.String("file", "", "file of figures, under docs/measurements")
	var f measure.Figure
	flag.StringVar(&f.Name, "name", "", "what was measured")
	flag.Float64Var(&f.Value, "value", 0, "how much")
	flag.StringVar(&f.Unit, "unit", "", "of what")
	flag.Float64Var(&f.Baseline, "baseline", 0, "what it is compared with, in the same unit")
	flag.IntVar(&f.Runs, "runs", 1, "how often it was measured")
	flag.StringVar(&f.Machine, "machine", "", "where")
	flag.StringVar(&f.Command, "command", "", "how to measure it again")
	flag.Parse()
	if err := record(*file, f); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func record(file string, f measure.Figure) error {
	if file == "" || f.Name == "" || f.Command == "" {
		return fmt.Errorf("a figure needs --file, --name and --command")
	}
	if f.Baseline != 0 {
		f.Ratio = f.Value / f.Baseline
	}
	return measure.Save(file, []measure.Figure{f})
}
