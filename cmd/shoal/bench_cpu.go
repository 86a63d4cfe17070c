package main

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/pkg/compute/cpu/bandwidth"

	"github.com/shoal-llm/shoal/internal/measure"
)

// benchCPUOptions are the flags of `shoal bench cpu`.
type benchCPUOptions struct {
	size    string
	threads []int
	runs    int
}

func newBenchCPU() *cobra.Command {
	var o benchCPUOptions
	c := &cobra.Command{
		Use:   "cpu",
		Short: "Memory read bandwidth: the limit of decoding",
		Long: `Measure how many bytes a second threads can read from memory in order. Decoding
reads all weights for each token, so this figure divided by the size of a model is
the most tokens a second that the machine can decode.

With --size below what the processor's caches hold, it is their bandwidth.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.StringVar(&o.size, "size", "1GiB", "bytes to read")
	f.IntSliceVar(&o.threads, "threads", slices.Compact([]int{1, runtime.GOMAXPROCS(0)}), "numbers of threads to measure")
	f.IntVar(&o.runs, "runs", 5, "runs of each; the median is shown")
	return c
}

func (o *benchCPUOptions) run(c *cobra.Command) error {
	size, err := parseBytes(o.size)
	if err != nil {
		return usageError{c.CommandPath(), fmt.Errorf("--size: %w", err)}
	}
	if o.runs < 1 {
		return usageError{c.CommandPath(), fmt.Errorf("--runs %d: want 1 or more", o.runs)}
	}
	region, err := bandwidth.New(int(size))
	if err != nil {
		return err
	}
	defer region.Close()
	rates := make([][]float64, len(o.threads))
	for range o.runs {
		for i, n := range o.threads {
			rate, err := region.Read(region.Size(), n, 1)
			if err != nil {
				return err
			}
			rates[i] = append(rates[i], rate/1e9)
		}
	}
	for i, n := range o.threads {
		r := rates[i]
		fmt.Fprintf(c.OutOrStdout(), "read %s, %d threads: %.1f (%.1f to %.1f) GB/s\n",
			bytesText(size), n, measure.Median(r), slices.Min(r), slices.Max(r))
	}
	return nil
}
