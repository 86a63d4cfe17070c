// Command tables rewrites the tables of the documents from docs/measurements.
// It is run in the root of the repository.
package main

import (
	"fmt"
	"os"

	"github.com/shoal-llm/shoal/internal/measure"
)

func main() {
	for _, path := range measure.Documents {
		if err := rewrite(path); err != nil {
			fmt.Fprintln(os.Stderr, "tables:", err)
			os.Exit(1)
		}
	}
}

func rewrite(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, err := measure.Fill(string(b), "docs/measurements")
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}
