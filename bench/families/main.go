// Command families measures the architectures: how far the reference mode is off
// the goldens of the reference data, and how fast a CPU decodes a model of each
// architecture beside one of Llama of the same size. `make bench-families` runs it.
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
	runs           int
}

func main() {
	var s settings
	flag.StringVar(&s.fixtures, "fixtures", "testdata/fixtures", "folder of the reference data")
	flag.StringVar(&s.save, "save", "", "JSON file of figures to merge the results into")
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
	exact, err := differences(s.fixtures, about)
	if err != nil {
		return err
	}
	fast, err := speeds(ctx, s.runs, about)
	if err != nil {
		return err
	}
	figures := append(exact, fast...)
	for _, f := range figures {
		fmt.Fprintf(out, "%-32s %10.4g %s\n", f.Name, f.Value, f.Unit)
	}
	if s.save == "" {
		return nil
	}
	return measure.Save(s.save, figures)
}
