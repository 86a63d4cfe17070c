// Command bench measures our engine side by side with llama.cpp on this machine
// and the same model files.
//
// Each round runs every contest once with both programs, one right after the
// other, the first alternating; the figures are medians of the rounds, so that
// what else the machine does meets both. `make bench-cpu` builds what it needs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"runtime/pprof"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/compute/cpu/bandwidth"
)

// settings are the flags.
type settings struct {
	models, baseline, program string
	save, only, profile       string
	suite                     string
	runs                      int
}

func main() {
	var s settings
	flag.StringVar(&s.models, "models", ".cache/models", "folder of the model files")
	flag.StringVar(&s.baseline, "llamacpp", ".cache/llama.cpp", "folder of the builds of llama.cpp; empty measures our engine alone")
	flag.StringVar(&s.program, "shoal", "bin/shoal", "the program whose serving is measured")
	flag.StringVar(&s.save, "save", "", "JSON file of figures to merge the results into")
	flag.StringVar(&s.suite, "suite", "bench-cpu", "bench-cpu: the engine and serving; bench-pipeline: the driver and several stages")
	flag.StringVar(&s.only, "only", "", "regular expression of the figures to measure; empty is all")
	flag.StringVar(&s.profile, "cpuprofile", "", "file to write a CPU profile of our engine to")
	flag.IntVar(&s.runs, "runs", 5, "rounds")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) (err error) {
	only, err := regexp.Compile(s.only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if s.runs < 1 {
		return fmt.Errorf("-runs %d: want 1 or more", s.runs)
	}
	if s.profile != "" {
		f, err := os.Create(s.profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer func() {
			pprof.StopCPUProfile()
			err = errors.Join(err, f.Close())
		}()
	}
	machine, err := machineName()
	if err != nil {
		return err
	}
	r := report{out: os.Stdout, rounds: s.runs, machine: machine, command: "make " + s.suite}
	switch s.suite {
	case "bench-cpu":
		err = r.compare(ctx, s, only)
		if err == nil {
			err = r.serve(ctx, s, only)
		}
	case "bench-pipeline":
		err = r.pipelines(ctx, s, only)
	default:
		err = fmt.Errorf("-suite %s: want bench-cpu or bench-pipeline", s.suite)
	}
	if err != nil {
		return err
	}
	if s.save == "" {
		return nil
	}
	return measure.Save(s.save, r.figures)
}

// machineName names the processor and its cores.
func machineName() (string, error) {
	device, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		return "", err
	}
	defer device.Close()
	return fmt.Sprintf("%s, %d cores, %s", device.Info().Name, runtime.NumCPU(), device.Level()), nil
}

// compare runs the contests.
func (r *report) compare(ctx context.Context, s settings, only *regexp.Regexp) error {
	f := &fleet{dir: s.models, open: map[string]*machine{}}
	defer f.close()
	var rivals []llamaCPP
	if s.baseline != "" {
		var err error
		if rivals, err = builds(s.baseline); err != nil {
			return err
		}
	}
	contests, err := contests(f, rivals, only)
	if err != nil || len(contests) == 0 {
		return err
	}
	const beyondCaches = 1 << 30
	region, err := bandwidth.New(beyondCaches)
	if err != nil {
		return err
	}
	defer region.Close()
	runtime.GC() // what loading left
	for n := range r.rounds {
		for _, c := range contests {
			if err := c.round(ctx, n, region); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", n+1, r.rounds)
	}
	r.contests(contests)
	return nil
}

// serve runs the measurements through the whole system.
func (r *report) serve(ctx context.Context, s settings, only *regexp.Regexp) error {
	for _, v := range servings() {
		if !only.MatchString(v.name) {
			continue
		}
		if err := v.measure(ctx, s.program, s.models, r.rounds); err != nil {
			return err
		}
		r.serving(v)
	}
	return nil
}
