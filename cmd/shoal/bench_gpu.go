package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/supervise"
)

// newBenchGPU runs the benchmark of the program that drives GPUs.
func newBenchGPU() *cobra.Command {
	return &cobra.Command{
		Use:   "gpu MODEL... [FLAGS]",
		Short: "Measure a GPU: `" + supervise.Program + " bench` with the same arguments",
		Long: `Run ` + supervise.Program + ` bench, from beside this program or from PATH, with the same
arguments: --help shows them.`,
		Example: `  shoal bench gpu 8b 1b
  shoal bench gpu 8b --ops`,
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			program, err := gpuOptions{program: auto}.find()
			if err != nil {
				return err
			}
			child := exec.CommandContext(c.Context(), program, append([]string{"bench"}, args...)...) // #nosec G204 -- the operator's own words
			child.Stdin, child.Stdout, child.Stderr = os.Stdin, c.OutOrStdout(), c.ErrOrStderr()
			err = child.Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) { // it has said why
				return fmt.Errorf("%s bench: %w", supervise.Program, err)
			}
			return err
		},
	}
}
