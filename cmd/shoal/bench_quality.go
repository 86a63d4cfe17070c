package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/internal/precision"
	"github.com/shoal-llm/shoal/internal/weights"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
)

// Tokens decoded to time a precision, and rounds, of which the fastest counts.
const (
	benchQualityDecodes = 32
	benchQualityRounds  = 3
)

// benchQualityOptions are the flags of `shoal bench quality`.
type benchQualityOptions struct {
	models    string
	save      string
	recipes   []string
	budgets   []string
	files     []string
	sequences int
	calibrate calibrateOptions
	device    deviceOptions
}

func newBenchQuality() *cobra.Command {
	var o benchQualityOptions
	c := &cobra.Command{
		Use:   "quality MODEL TEXT...",
		Short: "What each precision of weights costs in quality, and saves in bytes",
		Long: `Compare the predictions of MODEL with weights in each precision with those of its
own weights, at every position of texts: mean Kullback-Leibler divergence of weights
alone (multiplied in float32) and as they run (activations rounded to int8),
agreement of the likeliest token, perplexity, bytes on the device (accounted and
predicted), and decode speed. A row marked + is calibrated, as ` + "`shoal quantize --calibration`" + ` does.
--budget adds what adaptive precision makes of so many bytes; --file adds another file of
the same model.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args[0], args[1:]) },
	}
	f := c.Flags()
	f.StringVar(&o.models, "models", "", "folder of GGUF files")
	f.StringVar(&o.save, "save", "", "JSON file of figures to merge the results into")
	f.StringArrayVar(&o.recipes, "precision", []string{"int8", "int6", "int5", "int4", "int4+", "int3", "int3+", "int2", "int2+"}, "a precision or recipe, as `shoal quantize` takes it, with + calibrated; may be given several times")
	f.StringArrayVar(&o.budgets, "budget", nil, "bytes of matrices for adaptive precision; may be given several times")
	f.StringArrayVar(&o.files, "file", nil, "a file of the same model in other formats; may be given several times")
	f.IntVar(&o.sequences, "sequences", 20, fmt.Sprintf("sequences of %d tokens of each text", precision.Length))
	o.calibrate.flags(f, ownWords)
	o.device.flags(f)
	return c
}

// qualityRow is a model in one precision.
type qualityRow struct {
	name      string
	recipe    library.Recipe
	imp       library.Importance
	file      string  // instead of a recipe
	predicted float64 // divergence, of adaptive precision

	accounted, planned uint64 // bytes of weights on the device
	weights, run       []precision.Quality
	speed              float64
}

func (o *benchQualityOptions) run(c *cobra.Command, name string, texts []string) error {
	ctx := c.Context()
	m, err := (library.Library{Dir: o.models}).Open(name)
	if err != nil {
		return err
	}
	defer m.Close()
	be, err := openDevice(o.device, newLogger(c))
	if err != nil {
		return err
	}
	defer be.Close()
	rows, err := o.rows(c, be, m)
	if err != nil {
		return err
	}
	exact, err := m.Felt(library.Recipe{}, nil)
	if err != nil {
		return err
	}
	var all [][][]int32
	for _, text := range texts {
		sequences, err := readSequences(m, text, o.sequences)
		if err != nil {
			return err
		}
		all = append(all, sequences)
	}
	judge, err := precision.NewJudge(ctx, be, exact, all...)
	if err != nil {
		return err
	}
	show := newShown(c.ErrOrStderr())
	for i, r := range rows {
		show.progress(m.Name)(weights.Progress{Phase: "judge", Note: fmt.Sprintf("%d of %d", i, len(rows))})
		if err := r.judge(ctx, m, judge); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	show.end()
	if err := o.time(ctx, be, m, rows); err != nil {
		return err
	}
	o.print(c, m, texts, rows)
	if o.save == "" {
		return nil
	}
	return measure.Save(o.save, o.figures(m, name, texts, be.Info().Name, rows))
}

// rows lists what is compared: the model as it is first.
func (o *benchQualityOptions) rows(c *cobra.Command, be compute.Backend, m *library.Model) ([]*qualityRow, error) {
	rows := []*qualityRow{{name: "as it is"}}
	imp, err := o.calibrate.importance(c.Context(), o.device, m, newLogger(c))
	if err != nil {
		return nil, err
	}
	for _, s := range o.recipes {
		text, calibrated := strings.CutSuffix(s, "+")
		recipe, err := library.ParseRecipe(text)
		if err != nil {
			return nil, fmt.Errorf("--precision %s: %w", s, err)
		}
		r := &qualityRow{name: s, recipe: recipe}
		if calibrated {
			r.imp = imp
		}
		rows = append(rows, r)
	}
	for _, f := range o.files {
		rows = append(rows, &qualityRow{name: baseName(f), file: f})
	}
	if len(o.budgets) == 0 {
		return rows, nil
	}
	units, err := o.calibrate.measure(c, be, m, imp)
	if err != nil {
		return nil, err
	}
	for _, b := range o.budgets {
		budget, err := parseBytes(b)
		if err != nil {
			return nil, fmt.Errorf("--budget: %w", err)
		}
		choice, err := precision.Choose(units, budget)
		if err != nil {
			return nil, fmt.Errorf("--budget %s: %w", b, err)
		}
		fmt.Fprintf(c.OutOrStdout(), "adaptive %s: %d bytes, predicted divergence %.4f: %s\n", b, choice.Bytes, choice.KL, choice.Recipe)
		rows = append(rows, &qualityRow{name: "adaptive " + b, recipe: choice.Recipe, imp: imp, predicted: choice.KL})
	}
	return rows, nil
}

// open returns the row's model as it runs, or the values of its weights in float32.
func (r *qualityRow) open(m *library.Model, felt bool) (out *library.Model, done func() error, err error) {
	done = func() error { return nil }
	if r.file != "" {
		if m, err = (library.Library{}).Open(r.file); err != nil {
			return nil, nil, err
		}
		done = m.Close
	}
	if felt {
		out, err = m.Felt(r.recipe, r.imp)
	} else {
		out, err = m.Rounded(r.recipe, r.imp)
	}
	if err != nil {
		return nil, nil, errors.Join(err, done())
	}
	return out, done, nil
}

func (r *qualityRow) judge(ctx context.Context, m *library.Model, j *precision.Judge) error {
	for felt, qualities := range map[bool]*[]precision.Quality{true: &r.weights, false: &r.run} {
		model, done, err := r.open(m, felt)
		if err != nil {
			return err
		}
		q, err := j.Of(ctx, model)
		if err := errors.Join(err, done()); err != nil {
			return err
		}
		*qualities = q
	}
	return nil
}

// time decodes with each row in turn, and takes its fastest round, and notes what its
// weights take.
func (o *benchQualityOptions) time(ctx context.Context, be compute.Backend, m *library.Model, rows []*qualityRow) error {
	type running struct {
		*qualityRow
		local *engine.Local
	}
	var all []running
	defer func() {
		for _, r := range all {
			_ = r.local.Close()
		}
	}()
	for _, r := range rows {
		model, done, err := r.open(m, false)
		if err != nil {
			return err
		}
		planned, err := plannedWeights(model)
		if err != nil {
			return errors.Join(err, done())
		}
		before := be.Used().Weights
		local, err := openWindow(be, model, benchQualityDecodes*benchQualityRounds, compute.KVClass{})
		if err := errors.Join(err, done()); err != nil {
			return err
		}
		r.accounted, r.planned = be.Used().Weights-before, planned
		all = append(all, running{r, local})
	}
	ids := make([]int32, benchQualityDecodes*benchQualityRounds)
	for round := range benchQualityRounds {
		for _, r := range all {
			if err := ctx.Err(); err != nil {
				return err
			}
			var ops []frame.Op
			if round == 0 {
				ops = []frame.Op{{Open: &frame.Open{Attempt: 1}}}
			}
			began := time.Now()
			for i := range benchQualityDecodes {
				if _, err := windowLogits(r.local, ops, ids, round*benchQualityDecodes+i, 1); err != nil {
					return err
				}
				ops = nil
			}
			r.speed = max(r.speed, benchQualityDecodes/time.Since(began).Seconds())
		}
	}
	return nil
}

// plannedWeights is what the planner says that a model's weights take on one device.
func plannedWeights(m *library.Model) (uint64, error) {
	f, err := m.Footprint(compute.KVClass{})
	if err != nil {
		return 0, err
	}
	sum := f.Embed + f.Head - f.Tied
	for _, l := range f.Layers {
		sum += l
	}
	return sum, nil
}

// nominal are the bits of a value without its scales.
var nominal = map[string]float64{"int8": 8, "int6": 6, "int5": 5, "int4": 4, "int3": 3, "int2": 2}

func (o *benchQualityOptions) print(c *cobra.Command, m *library.Model, texts []string, rows []*qualityRow) {
	out := c.OutOrStdout()
	half := 2 * float64(m.Parameters)
	for i, text := range texts {
		fmt.Fprintf(out, "%s on %s, %d sequences of %d\n%-44s %11s %8s %8s %9s %9s %9s %9s %9s\n", m.Name, baseName(text), o.sequences, precision.Length,
			"precision", "bytes", "of fp16", "planned", "KL", "KL run", "same top", "ppl", "tokens/s")
		for _, r := range rows {
			fmt.Fprintf(out, "%-44s %11d %6.1f %% %8.3f %9.5f %9.5f %7.2f %% %9.4f %9.1f\n", r.name, r.accounted, 100*float64(r.accounted)/half,
				float64(r.planned)/float64(r.accounted), r.weights[i].KL, r.run[i].KL, 100*r.weights[i].Same, r.run[i].Perplexity, r.speed)
		}
	}
}

// figures are the results as they are kept.
func (o *benchQualityOptions) figures(m *library.Model, name string, texts []string, machine string, rows []*qualityRow) (out []measure.Figure) {
	command := "make quality"
	half := 2 * float64(m.Parameters)
	for _, r := range rows {
		row := m.Name + " " + strings.NewReplacer("+", " calibrated", ".", "·").Replace(r.name)
		add := func(what string, value float64, unit string, baseline, ratio float64) {
			out = append(out, measure.Figure{Name: row + "." + what, Value: value, Unit: unit, Baseline: baseline, Ratio: ratio, Runs: 1, Machine: machine, Command: command})
		}
		add("bytes", float64(r.accounted), "bytes", float64(r.planned), float64(r.planned)/float64(r.accounted))
		add("reduction", 100*(1-float64(r.accounted)/half), "% of fp16", 0, 0)
		if n := nominal[r.recipe.Precision()]; n > 0 {
			add("reduction_nominal", 100*(1-n/16), "% of fp16", 0, 0)
		}
		for i, text := range texts {
			w, run := r.weights[i], r.run[i]
			on := strings.TrimPrefix(baseName(text), "heldout_") + "_"
			add(on+"kl", w.KL, "nats", r.predicted, 0)
			add(on+"kl_run", run.KL, "nats", 0, 0)
			add(on+"same_top", 100*w.Same, "%", 0, 0)
			add(on+"perplexity", run.Perplexity, "", rows[0].run[i].Perplexity, rows[0].run[i].Perplexity/run.Perplexity)
		}
		add("decode", r.speed, "tokens/s", rows[0].speed, r.speed/rows[0].speed)
	}
	return out
}

// readSequences cuts a text into sequences of a model's ids.
func readSequences(m *library.Model, file string, n int) ([][]int32, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	vocab, err := m.Vocab()
	if err != nil {
		return nil, err
	}
	sequences := precision.Cut(vocab.EncodeWithSpecial(string(text)), n)
	if len(sequences) == 0 {
		return nil, fmt.Errorf("%s has fewer than %d tokens", file, precision.Length)
	}
	return sequences, nil
}
