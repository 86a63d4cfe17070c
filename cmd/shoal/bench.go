package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
)

// Sizes of the benchmark, as others in the field use them.
const (
	benchPrefill = 512
	benchDecode  = 128
)

func newBench() *cobra.Command {
	c := &cobra.Command{Use: "bench", Short: "Measure this machine"}
	c.AddCommand(newBenchModel(), newBenchPerplexity(), newBenchKV(), newBenchContext(), newBenchQuality(), newBenchCPU(), newBenchGPU())
	return c
}

// benchOptions are the flags of `shoal bench model`.
type benchOptions struct {
	models string
	save   string
	stages []int
	runs   int
	ops    bool
	device deviceOptions
}

func newBenchModel() *cobra.Command {
	var o benchOptions
	c := &cobra.Command{
		Use:   "model MODEL...",
		Short: "Tokens a second of prefill 512 and decode 128, engine only",
		Long: `Measure prefill of 512 tokens and decode of 128 tokens on models, split over
stages in this process, without a network. Runs of different models and splits are
interleaved; the median is shown.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args) },
	}
	f := c.Flags()
	f.StringVar(&o.models, "models", "", "folder of GGUF files")
	f.StringVar(&o.save, "save", "", "JSON file of figures to merge the results into")
	f.IntSliceVar(&o.stages, "stages", []int{1, 2}, "numbers of stages to measure")
	f.IntVar(&o.runs, "runs", 5, "runs of each")
	f.BoolVar(&o.ops, "ops", false, "show what each operation takes, timed by itself")
	o.device.flags(f)
	return c
}

// benchCase is a model in a split, with what its runs took.
type benchCase struct {
	name            string
	model           *library.Model
	pipeline        *engine.Local
	prefill, decode []float64 // tokens a second
	first           func()    // called at the first token; may be nil
}

func (o *benchOptions) run(c *cobra.Command, names []string) error {
	if o.runs < 1 {
		return usageError{c.CommandPath(), fmt.Errorf("--runs %d: want 1 or more", o.runs)}
	}
	be, err := openDevice(o.device, newLogger(c))
	if err != nil {
		return err
	}
	defer be.Close()
	var cases []*benchCase
	var models []*library.Model
	for _, name := range names {
		m, err := library.Library{Dir: o.models}.Open(name)
		if err != nil {
			return err
		}
		defer m.Close()
		models = append(models, m)
		for _, n := range o.stages {
			bc, err := o.load(m, n)
			if err != nil {
				return err
			}
			defer bc.pipeline.Close()
			cases = append(cases, bc)
		}
	}
	for range o.runs + 1 { // the first warms up
		for _, bc := range cases {
			if err := bc.measure(c.Context()); err != nil {
				return err
			}
		}
	}
	if err := o.report(c, cases, fmt.Sprintf("%s, %d threads", be.Info().Name, be.Info().Threads)); err != nil || !o.ops {
		return err
	}
	for _, m := range models {
		if err := o.printOps(c.Context(), c.OutOrStdout(), m); err != nil {
			return err
		}
	}
	return nil
}

// load splits a model over n stages, all on a device of their own as `shoal up`
// would use it.
func (o *benchOptions) load(m *library.Model, n int) (*benchCase, error) {
	if n < 1 || n > m.Spec.Layers {
		return nil, fmt.Errorf("--stages %d: %s has %d layers", n, m.Name, m.Spec.Layers)
	}
	be, err := openDevice(o.device, nil)
	if err != nil {
		return nil, err
	}
	stages, err := openBenchStages(be, m, n)
	if err != nil {
		return nil, err
	}
	return &benchCase{name: fmt.Sprintf("%s_%dstage", m.Name, n), model: m, pipeline: engine.NewLocal(stages...)}, nil
}

// openBenchStages splits a model over n stages on a device.
func openBenchStages(be compute.Backend, m *library.Model, n int) ([]*engine.Stage, error) {
	context := min(benchPrefill+benchDecode+64, m.Spec.Context)
	var stages []*engine.Stage
	for i := range n {
		first, end := i*m.Spec.Layers/n, (i+1)*m.Spec.Layers/n
		st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
			Epoch: 1, Stage: uint32(i),
			Part:  model.Part{First: first, End: end, Embed: first == 0, Head: end == m.Spec.Layers},
			Pages: context/64 + 1, Slots: 1, Rows: 512, Context: context,
		})
		if err != nil {
			return nil, err
		}
		stages = append(stages, st)
	}
	return stages, nil
}

// measure runs a prefill and a decode once.
func (b *benchCase) measure(ctx context.Context) error {
	prompt := make([]int32, benchPrefill)
	for i := range prompt {
		prompt[i] = int32((i*7919 + 13) % b.model.Spec.Vocab)
	}
	start := time.Now()
	var first time.Time
	n := 0
	open := &frame.Open{Attempt: 1, Sampling: sample.Spec{IgnoreEOS: true, MaxTokens: benchDecode + 1}}
	for s, err := range b.pipeline.Generate(ctx, open, prompt) {
		if err != nil {
			return err
		}
		if n == 0 {
			if b.first != nil {
				b.first()
			}
			first = time.Now()
		}
		n += len(s.IDs)
	}
	b.prefill = append(b.prefill, benchPrefill/first.Sub(start).Seconds())
	b.decode = append(b.decode, float64(n-1)/time.Since(first).Seconds())
	return nil
}

// report prints the medians and saves them.
func (o *benchOptions) report(c *cobra.Command, cases []*benchCase, machine string) error {
	command := "shoal bench model " + strings.Join(modelNames(cases), " ")
	var figures []measure.Figure
	fmt.Fprintf(c.OutOrStdout(), "%s/%s, %s\n%-28s %26s %26s\n", runtime.GOOS, runtime.GOARCH, machine, "", "prefill 512", "decode 128")
	for _, bc := range cases {
		fmt.Fprintf(c.OutOrStdout(), "%-28s %26s %26s\n", bc.name, spread(bc.prefill[1:]), spread(bc.decode[1:]))
		for kind, runs := range map[string][]float64{"prefill512": bc.prefill[1:], "decode128": bc.decode[1:]} {
			figures = append(figures, measure.Figure{
				Name: kind + "_" + bc.name, Value: measure.Median(runs), Unit: "tokens/s", Runs: len(runs), Machine: machine, Command: command,
			})
		}
	}
	if o.save == "" {
		return nil
	}
	slices.SortFunc(figures, func(a, b measure.Figure) int { return strings.Compare(a.Name, b.Name) })
	return measure.Save(o.save, figures)
}

func modelNames(cases []*benchCase) []string {
	var names []string
	for _, bc := range cases {
		name := bc.model.Name
		if bc.model.Path != "" {
			name = filepath.ToSlash(bc.model.Path)
			if wd, err := os.Getwd(); err == nil {
				if rel, err := filepath.Rel(wd, bc.model.Path); err == nil {
					name = filepath.ToSlash(rel)
				}
			}
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// spread prints the least, the median and the most.
func spread(v []float64) string {
	return fmt.Sprintf("%.0f (%.0f to %.0f) tok/s", measure.Median(v), slices.Min(v), slices.Max(v))
}
