// Command families measures the architectures: how far the reference mode is off
// the goldens of the reference data, and how fast a CPU decodes a model of each
// architecture beside one of Llama of the same size; low-rank adapters likewise, what
// stages of mixtures of experts hold beside what the planner counts, and how long an
// encoder of pictures takes. `make bench-families` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
)

// settings are the flags.
type settings struct {
	fixtures, save string
	adapters, only string
	runs           int
}

func main() {
	var s settings
	flag.StringVar(&s.fixtures, "fixtures", "testdata/fixtures", "folder of the reference data")
	flag.StringVar(&s.save, "save", "", "JSON file of figures to merge the results into")
	flag.StringVar(&s.adapters, "adapters", "testdata/adapters", "folder of adapters of the reference models")
	flag.StringVar(&s.only, "only", "", "only the figures of one kind: exact, speed, adapters, stages or pictures; empty is all")
	flag.IntVar(&s.runs, "runs", 7, "rounds through all architectures; the median counts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, s, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "families:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings, out io.Writer) error {
	if s.runs < 1 {
		return fmt.Errorf("-runs %d: want 1 or more", s.runs)
	}
	be, err := cpu.Open(cpu.Config{})
	if err != nil {
		return err
	}
	info := be.Info()
	if err := be.Close(); err != nil {
		return err
	}
	about := measure.Figure{
		Machine: fmt.Sprintf("%s, %d threads, %s", info.Name, info.Threads, runtime.GOARCH), Command: "make bench-families",
	}
	var figures []measure.Figure
	done := false
	for _, kind := range []struct {
		name string
		run  func() ([]measure.Figure, error)
	}{
		{"exact", func() ([]measure.Figure, error) { return differences(s.fixtures, about) }},
		{"speed", func() ([]measure.Figure, error) { return speeds(ctx, s.runs, about) }},
		{"adapters", func() ([]measure.Figure, error) { return adapterFigures(ctx, s.fixtures, s.adapters, s.runs, about) }},
		{"stages", func() ([]measure.Figure, error) { return splitBytes(s.fixtures, about) }},
		{"pictures", func() ([]measure.Figure, error) { return pictures(ctx, about) }},
	} {
		if s.only != "" && s.only != kind.name {
			continue
		}
		some, err := kind.run()
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		figures, done = append(figures, some...), true
	}
	if !done {
		return fmt.Errorf("-only %q: want exact, speed, adapters, stages or pictures", s.only)
	}
	for _, f := range figures {
		fmt.Fprintf(out, "%-34s %10.4g %s", f.Name, f.Value, f.Unit)
		if f.Ratio != 0 {
			fmt.Fprintf(out, ", %.3g of %.4g", f.Ratio, f.Baseline)
		}
		fmt.Fprintln(out)
	}
	if s.save == "" {
		return nil
	}
	return measure.Save(s.save, figures)
}
