// Command predict holds what the planner predicts against what is measured: for
// each of some set-ups it starts a whole cluster of processes, reads the predicted
// time of a token as soon as the cluster is ready, before any answer, and again
// after one, and measures single-stream decoding through the gateway. A shard has
// a core of its own, as machines do; coordinator and gateway share the last one.
// The set-ups share a state directory, as restarts of one machine do: what the
// first ones have measured and their steps have shown is known to those after
// them. It also measures how long a placement of 128 layers on 32 uneven nodes
// takes. `make bench-plan` builds what it needs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/shoal-llm/shoal/internal/measure"
)

// settings are the flags.
type settings struct {
	program, models, save string
	runs                  int
}

// setup is a cluster to predict: stages shards of threads threads each. One that
// is crowded has more threads than cores of its own, so that whatever else runs on
// the machine takes from them: it is shown, and does not count.
type setup struct {
	model           string
	stages, threads int
	crowded         bool
}

func (s setup) String() string {
	return fmt.Sprintf("%s_%dstage_%dthread", strings.TrimSuffix(filepath.Base(s.model), ".gguf"), s.stages, s.threads)
}

func main() {
	var s settings
	flag.StringVar(&s.program, "shoal", "bin/shoal", "the program")
	flag.StringVar(&s.models, "models", ".cache/models", "folder of the model files")
	flag.StringVar(&s.save, "save", "", "JSON file of figures to merge the results into")
	flag.IntVar(&s.runs, "runs", 5, "answers per set-up; the median counts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, s, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "predict:", err)
		os.Exit(1)
	}
}

// setups are the six that count, and one that is crowded.
func setups(models string) []setup {
	var out []setup
	for _, model := range []string{"tiny", filepath.Join(models, "smollm2.gguf"), filepath.Join(models, "smollm2-q4_0.gguf")} {
		out = append(out, setup{model: model, stages: 1, threads: 1}, setup{model: model, stages: 2, threads: 1})
	}
	return append(out, setup{model: filepath.Join(models, "smollm2.gguf"), stages: 1, threads: runtime.NumCPU(), crowded: true})
}

func run(ctx context.Context, s settings, out io.Writer) error {
	if s.runs < 1 {
		return fmt.Errorf("-runs %d: want 1 or more", s.runs)
	}
	machine := fmt.Sprintf("%s, %d threads", runtime.GOARCH, runtime.NumCPU())
	figures := []measure.Figure{placing(machine, out)}
	state, err := os.MkdirTemp("", "predict-state-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(state)
	var cold, warm []float64 // how far off predictions are
	for _, up := range setups(s.models) {
		c, err := s.compare(ctx, state, up)
		if err != nil {
			return fmt.Errorf("%v: %w", up, err)
		}
		if !up.crowded {
			cold, warm = append(cold, c.off(c.cold)), append(warm, c.off(c.warm))
		}
		fmt.Fprintf(out, "%-28s %7.1f tokens/s predicted, %7.1f measured: %5.1f %% off; %7.1f predicted after one answer: %5.1f %% off\n",
			up, c.cold, c.measured, c.off(c.cold), c.warm, c.off(c.warm))
		figures = append(figures, measure.Figure{
			Name: "predicted_" + up.String(), Value: c.cold, Unit: "tokens/s", Baseline: c.measured, Ratio: c.cold / c.measured,
			Runs: s.runs, Machine: machine, Command: "make bench-plan",
		})
	}
	for _, f := range []struct {
		name string
		off  []float64
	}{{"plan_error_5th_of_6", cold}, {"plan_error_after_one_answer_5th_of_6", warm}} {
		slices.Sort(f.off)
		fifth := f.off[len(f.off)-2]
		fmt.Fprintf(out, "%s: %.1f %%\n", f.name, fifth)
		figures = append(figures, measure.Figure{
			Name: f.name, Value: fifth, Unit: "%", Runs: s.runs, Machine: machine, Command: "make bench-plan",
		})
	}
	if s.save == "" {
		return nil
	}
	return measure.Save(s.save, figures)
}

// comparison is tokens a second: as predicted before the first answer and after
// it, and as measured.
type comparison struct{ cold, warm, measured float64 }

// off is how far a prediction is from the measurement, in percent of that.
func (c comparison) off(predicted float64) float64 { return 100 * math.Abs(predicted/c.measured-1) }

// compare starts a cluster, reads predictions and measures answers.
func (s settings) compare(ctx context.Context, state string, up setup) (out comparison, err error) {
	c, err := start(ctx, s.program, state, up)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	if out.cold, err = c.predicted(ctx, up); err != nil {
		return out, err
	}
	var rates []float64
	for i := range s.runs + 1 { // the first warms up
		rate, err := c.answer(ctx, i)
		if err != nil {
			return out, err
		}
		if i == 0 {
			if out.warm, err = c.predicted(ctx, up); err != nil {
				return out, err
			}
			continue
		}
		rates = append(rates, rate)
	}
	out.measured = measure.Median(rates)
	return out, nil
}
