package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/internal/supervise"
	"github.com/shoal-llm/shoal/internal/synthetic"
)

// pairOptions are the flags of `shoal-gpu bench pair`.
type pairOptions struct {
	device string
	work   workload
	counts []int
	runs   int
	save   saving
}

func newBenchPair(d driver) *cobra.Command {
	var o pairOptions
	c := &cobra.Command{
		Use:   "pair MODEL",
		Short: "Two stages in two processes, on one GPU or two, against one stage in one",
		Long: `Serve a synthetic model in two clusters that use the same GPU, or the same two: one
process with one stage, and two processes with a stage each. Answers come through a coordinator by
mutual TLS, as in every cluster. The runs of both are interleaved.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if o.work.prefill < 1 || o.work.decode < 2 || o.runs < 1 {
				return usageError{c.CommandPath(), errors.New("want a prompt, two tokens and one run at least")}
			}
			return o.run(c.Context(), c.OutOrStdout(), d, args[0])
		},
	}
	f := c.Flags()
	f.StringVar(&o.device, "device", "", "number or part of the name of a device; empty is the first GPU. Two, with a comma between: the second stage is on the second one")
	f.IntVar(&o.work.prefill, "prefill", 128, "positions of a prompt")
	f.IntVar(&o.work.decode, "decode", 256, "tokens to sample after it")
	f.IntSliceVar(&o.counts, "streams", []int{1, 2, 4}, "numbers of answers at the same time")
	f.IntVar(&o.runs, "runs", 5, "runs of each; the median counts")
	f.StringVar(&o.save.file, "save", "", "JSON file of figures to merge the results into")
	f.StringVar(&o.save.label, "label", "", "beginning of the figures' names (default from the device's name)")
	f.StringVar(&o.save.command, "command", "make bench-gpu", "how to repeat the figures")
	return c
}

// layouts are the numbers of stages that are compared.
var layouts = [2]int{1, 2}

func (o *pairOptions) run(ctx context.Context, out io.Writer, d driver, name string) (err error) {
	quietCollector()
	var adapters []supervise.Adapter
	for name := range strings.SplitSeq(o.device, ",") {
		a, err := d.find(name)
		if err != nil {
			return err
		}
		adapters = append(adapters, a)
	}
	if len(adapters) > 2 {
		return usageError{"shoal-gpu bench pair", errors.New("--device names one device or two")}
	}
	where := adapters[0].Name
	if len(adapters) == 2 {
		where += " and " + adapters[1].Name
	}
	m, err := synthetic.Open(name)
	if err != nil {
		return err
	}
	w := o.work
	for _, n := range o.counts {
		w.streams = max(w.streams, n)
	}
	var farms [len(layouts)]*farm
	for i, stages := range layouts {
		if farms[i], err = startFarm(ctx, adapters, m, stages, w); err != nil {
			return fmt.Errorf("start %d processes: %w", stages, err)
		}
		defer func() { err = errors.Join(err, farms[i].end()) }()
	}
	fmt.Fprintf(out, "%s on %s, tokens/s of all streams\n", m.Name, where)
	var figures []measure.Figure
	for _, n := range o.counts {
		w.streams = n
		rates, err := o.compare(farms, w)
		if err != nil {
			return err
		}
		one, two := measure.Median(rates[0]), measure.Median(rates[1])
		fmt.Fprintf(out, "  %d streams: one stage %s, two stages %s, ratio %.3f\n", n, spread(rates[0]), spread(rates[1]), two/one)
		figures = append(figures, measure.Figure{
			Name: ratioName(o.save.label, adapters, n), Value: two, Unit: "tokens/s", Baseline: one, Ratio: two / one,
			Runs: o.runs, Machine: where, Command: o.save.command,
		})
	}
	if o.save.file == "" {
		return nil
	}
	return measure.Save(o.save.file, figures)
}

// ratioName names the figure of so many streams.
func ratioName(prefix string, on []supervise.Adapter, streams int) string {
	if prefix == "" {
		prefix = label(on[0].Name)
	}
	if len(on) == 2 {
		prefix += "_pair"
	}
	if streams == 1 {
		return prefix + "_two_stage_ratio"
	}
	return fmt.Sprintf("%s_two_stage_ratio_%dstreams", prefix, streams)
}

// compare measures both layouts in turn.
func (o *pairOptions) compare(farms [len(layouts)]*farm, w workload) (rates [len(layouts)][]float64, err error) {
	for run := range o.runs + 1 { // the first warms up
		for i, f := range farms {
			rate, err := f.run(w)
			if err != nil {
				return rates, fmt.Errorf("%d stages, %d streams: %w", layouts[i], w.streams, err)
			}
			if run > 0 {
				rates[i] = append(rates[i], rate)
			}
		}
	}
	return rates, nil
}
