package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/profile"
)

// benchOptions are the flags of `shoal-gpu bench`.
type benchOptions struct {
	deviceFlags
	work   workload
	kv     string
	stages int
	runs   int
	ops    bool
	limits profile.Limits
	save   saving
	// Of llama.cpp on the same device, to compare with; 0 is none.
	baseDecode, basePrefill float64
}

// saving says where figures go and what they are called.
type saving struct {
	file, label, command string
}

func newBench(d driver) *cobra.Command {
	var o benchOptions
	c := &cobra.Command{
		Use:   "bench MODEL...",
		Short: "Tokens a second of prefill and decode, upload, and the share of each operation",
		Long: `Measure models on a GPU, in this process and without a network. A model is a file, or
synthetic: 8b and 1b have the shapes of Llama 3.1 8B and Llama 3.2 1B, nano is
small; the format of the matrices follows a colon (8b:Q4_K) and is Q4_0 otherwise.

With --ops every kind of operation is timed by itself, and its share of the step
shown.`,
		Example: `  shoal-gpu bench 8b 1b
  shoal-gpu bench 8b --ops --peak-gbps 4800 --peak-tflops 60`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, d, args) },
	}
	f := c.Flags()
	o.deviceFlags.flags(f)
	f.IntVar(&o.work.prefill, "prefill", 512, "positions of the prompt")
	f.IntVar(&o.work.decode, "decode", 128, "tokens to sample after it")
	f.IntVar(&o.work.streams, "streams", 1, "answers at the same time")
	f.IntVar(&o.stages, "stages", 1, "stages to split the model into, on the one device")
	f.StringVar(&o.kv, "kv", "float32", "class of stored keys and values: float32, 16, 8, 4, 3, 2, 4@128-3@1024")
	f.IntVar(&o.runs, "runs", 5, "runs of each; the median counts")
	f.BoolVar(&o.ops, "ops", false, "show what each operation takes")
	f.Float64Var(&o.limits.GBps, "peak-gbps", 0, "the device's memory bandwidth in GB/s, for the table of --ops")
	f.Float64Var(&o.limits.TFLOPS, "peak-tflops", 0, "the device's float32 arithmetic in TFLOP/s, for the same")
	f.StringVar(&o.save.file, "save", "", "JSON file of figures to merge the results into")
	f.StringVar(&o.save.label, "label", "", "beginning of the figures' names (default from the device's name)")
	f.StringVar(&o.save.command, "command", "make bench-gpu", "how to repeat the figures")
	f.Float64Var(&o.baseDecode, "baseline-decode", 0, "tokens a second to compare decode with")
	f.Float64Var(&o.basePrefill, "baseline-prefill", 0, "tokens a second to compare prefill with")
	c.AddCommand(newBenchPair(d))
	return c
}

func (o *benchOptions) check() error {
	for name, v := range map[string]int{"prefill": o.work.prefill, "decode": o.work.decode, "streams": o.work.streams, "runs": o.runs} {
		if v < 1 {
			return fmt.Errorf("--%s %d: want 1 or more", name, v)
		}
	}
	return nil
}

func (o *benchOptions) run(c *cobra.Command, d driver, names []string) (err error) {
	err = o.check()
	if err == nil {
		o.work.kv, err = compute.ParseKVClass(o.kv)
	}
	if err != nil {
		return usageError{c.CommandPath(), err}
	}
	quietCollector()
	be, _, err := o.open(d, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	info := be.Info()
	if o.save.label == "" {
		o.save.label = label(info.Name)
	}
	fmt.Fprintf(c.OutOrStdout(), "%s (%s)\n", info.Name, info.Class)
	for _, name := range names {
		if err := o.measure(c.Context(), c.OutOrStdout(), be, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// quietCollector lets the heap, which is small beside a device's memory, grow
// before it is collected, as in a process that serves.
func quietCollector() {
	const percent = 400
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// measure runs one model and reports.
func (o *benchOptions) measure(ctx context.Context, out io.Writer, be compute.Backend, name string) (err error) {
	m, err := openWeights(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	r, err := newRunner(be, m, o.stages, o.work)
	if err != nil {
		return err
	}
	upload := float64(m.bytes) / 1e9 / r.loaded.Seconds()
	fmt.Fprintf(out, "%s: %.2f GB loaded in %.2f s, %.1f GB/s; %s\n", m.name, float64(m.bytes)/1e9, r.loaded.Seconds(), upload, memoryText(be.Used()))
	var prefills, decodes []float64
	var last times
	for i := range o.runs + 1 { // the first warms up
		p, t, err := r.run(ctx, o.work)
		if err != nil {
			return errors.Join(err, r.Close())
		}
		if last = t; i > 0 {
			prefills, decodes = append(prefills, p.rate()), append(decodes, t.rate())
		}
	}
	step := last.wall / time.Duration(last.steps)
	fmt.Fprintf(out, "  prefill %-5d %s\n  decode  %-5d %s; a step takes %v, the device %v of it\n", o.work.prefill, spread(prefills),
		o.work.decode, spread(decodes), step.Round(time.Microsecond), (last.device / time.Duration(last.steps)).Round(time.Microsecond))
	if err := r.Close(); err != nil {
		return err
	}
	if o.ops {
		if err := o.profile(ctx, out, be, m, step); err != nil {
			return err
		}
	}
	if o.save.file == "" {
		return nil
	}
	return o.store(be, name, upload, prefills, decodes)
}

// store saves what was measured.
func (o *benchOptions) store(be compute.Backend, name string, upload float64, prefills, decodes []float64) error {
	base := o.save.label + "_" + strings.NewReplacer(":", "_", ".", "_").Replace(strings.ToLower(name))
	if o.work.streams > 1 {
		base += fmt.Sprintf("_%dstreams", o.work.streams)
	}
	if o.work.kv != (compute.KVClass{}) {
		base += "_kv" + strings.NewReplacer("/", "g", "@", "after", "-", "to").Replace(o.work.kv.String())
	}
	if o.stages > 1 {
		base += fmt.Sprintf("_%dstages", o.stages)
	}
	figure := func(name string, value float64, unit string, baseline float64) measure.Figure {
		f := measure.Figure{Name: name, Value: value, Unit: unit, Runs: o.runs, Machine: be.Info().Name, Command: o.save.command}
		if baseline > 0 {
			f.Baseline, f.Ratio = baseline, value/baseline
		}
		return f
	}
	return measure.Save(o.save.file, []measure.Figure{
		figure(base+"_decode", measure.Median(decodes), "tokens/s", o.baseDecode),
		figure(fmt.Sprintf("%s_prefill%d", base, o.work.prefill), measure.Median(prefills), "tokens/s", o.basePrefill),
		figure("upload_gbps", upload, "GB/s", 0),
	})
}

// profile times the operations of a prefill and of decode steps.
func (o *benchOptions) profile(ctx context.Context, out io.Writer, be compute.Backend, m weights, step time.Duration) (err error) {
	p := profile.Of(be)
	p.Profile(true)
	defer p.Profile(false)
	r, err := newRunner(p, m, o.stages, o.work)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	const mostSteps = 16
	w := o.work
	w.decode = min(w.decode, mostSteps)
	var prefill, decode []profile.Op
	for range 2 { // the first warms up
		r.between = func() { prefill = p.Ops() }
		p.Ops()
		if _, _, err := r.run(ctx, w); err != nil {
			return err
		}
		decode = p.Ops()
	}
	fmt.Fprintf(out, "\nOperations of a prompt of %d:\n", w.prefill)
	profile.Print(out, prefill, w.streams, o.limits)
	fmt.Fprintf(out, "\nOperations of a decode step:\n")
	profile.Print(out, decode, w.decode, o.limits)
	fmt.Fprintf(out, "Unprofiled, a decode step takes %v.\n", step.Round(time.Microsecond))
	return nil
}

// memoryText tells what a device holds.
func memoryText(m compute.Memory) string {
	mib := func(n uint64) float64 { return float64(n) / (1 << 20) }
	return fmt.Sprintf("it holds %.0f MiB of weights, %.0f of caches, %.0f of buffers", mib(m.Weights), mib(m.Caches), mib(m.Buffers))
}

// spread prints the least, the median and the most.
func spread(v []float64) string {
	return fmt.Sprintf("%.0f tok/s (%.0f to %.0f)", measure.Median(v), slices.Min(v), slices.Max(v))
}
