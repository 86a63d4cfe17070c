package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/precision"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// quantizeOptions are the flags of `shoal quantize`.
type quantizeOptions struct {
	precision string
	budget    string
	calibrate calibrateOptions
	device    deviceOptions
}

func newQuantize() *cobra.Command {
	var o quantizeOptions
	c := &cobra.Command{
		Use:   "quantize IN OUT",
		Short: "Write a GGUF file with weights in fewer bits",
		Long: `Write the GGUF file IN as OUT with matrices in groups of few bits, rounded with
scales that keep the squared error small, in formats that every GGUF program reads:
int8 is Q8_0, int6 Q6_K, int5 Q5_K, int4 Q4_K, int3 Q3_K and int2 Q2_K; where rows are
not whole blocks of 256 values, other formats of the same precision, else finer ones:
the report says how many. Embedding and head are int6, or int8 with int8. Vectors and
routers of experts stay.

--precision takes rules too: components, those of a layer, or a matrix of a layer, as in
int4,embedding=int8,attention=int3,0.feedforward=int5,7.ffn_down=int6. With adaptive, the
part of the model that each precision harms least gets it, so that all matrices take
--budget bytes on a device: what rounding each part does by itself is measured, and the
best sum that fits is taken. --calibration learns from a text which weights matter.
Both need the whole model in float32.`,
		Example: `  shoal quantize model.gguf small.gguf --precision int4
  shoal quantize model.gguf small.gguf --precision adaptive --budget 2.1GB`,
		Args: exactArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args[0], args[1]) },
	}
	f := c.Flags()
	f.StringVar(&o.precision, "precision", "int4", strings.Join(library.Precisions(), ", ")+", these with rules, or adaptive")
	f.StringVar(&o.budget, "budget", "", "with adaptive: bytes that all matrices may take on a device, like 2.1GB")
	o.calibrate.flags(f, "")
	f.Lookup("calibration").DefValue = "own with adaptive, else none"
	o.device.flags(f)
	return c
}

// complete checks the flags and returns the recipe, none for adaptive, and the budget.
func (o *quantizeOptions) complete() (r library.Recipe, budget uint64, err error) {
	adaptive := o.precision == library.Adaptive
	if adaptive != (o.budget != "") {
		return r, 0, errors.New("--precision adaptive and --budget need each other: how many bytes may the matrices take?")
	}
	if o.calibrate.text == "" {
		o.calibrate.text = map[bool]string{true: ownWords, false: noCalibration}[adaptive]
	}
	if !adaptive {
		if r, err = library.ParseRecipe(o.precision); err != nil {
			err = fmt.Errorf("--precision: %w", err)
		}
		return r, 0, err
	}
	if budget, err = parseBytes(o.budget); err != nil {
		err = fmt.Errorf("--budget: %w", err)
	}
	return r, budget, err
}

// run writes beside the target and renames, so that no part of a file is taken for a
// model.
func (o *quantizeOptions) run(c *cobra.Command, in, out string) (err error) {
	recipe, budget, err := o.complete()
	if err != nil {
		return usageError{c.CommandPath(), err}
	}
	f, err := gguf.Open(in, gguf.Options{Formats: formats.All()})
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := os.Stat(out); err == nil {
		return fmt.Errorf("%s is there already: remove it, or name another file", out)
	}
	var imp library.Importance
	if o.calibrate.text != noCalibration {
		if recipe, imp, err = o.learn(c, in, recipe, budget); err != nil {
			return err
		}
	}
	part, err := os.OpenFile(out+".part", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	var done []library.Quantized
	err = library.Quantize(c.Context(), part, f, recipe, imp, func(q library.Quantized) { done = append(done, q) })
	if err = errors.Join(err, part.Close()); err != nil {
		return errors.Join(fmt.Errorf("quantize %s: %w", in, err), os.Remove(part.Name()))
	}
	if err := os.Rename(part.Name(), out); err != nil {
		return err
	}
	printQuantized(c.OutOrStdout(), done)
	return nil
}

// learn calibrates, and where a budget is given chooses the recipe.
func (o *quantizeOptions) learn(c *cobra.Command, in string, r library.Recipe, budget uint64) (library.Recipe, library.Importance, error) {
	m, err := (library.Library{}).Open(in)
	if err != nil {
		return r, nil, err
	}
	defer m.Close()
	imp, err := o.calibrate.importance(c.Context(), o.device, m, newLogger(c))
	if err != nil || budget == 0 {
		return r, imp, err
	}
	be, err := openDevice(o.device, newLogger(c))
	if err != nil {
		return r, nil, err
	}
	defer be.Close()
	units, err := o.calibrate.measure(c, be, m, imp)
	if err != nil {
		return r, nil, err
	}
	choice, err := precision.Choose(units, budget)
	if err != nil {
		return r, nil, fmt.Errorf("--budget %s: %w", o.budget, err)
	}
	fmt.Fprintf(c.OutOrStdout(), "%d bytes of matrices on a device, predicted divergence %.4f nats: %s\n", choice.Bytes, choice.KL, choice.Recipe)
	return choice.Recipe, imp, nil
}

// printQuantized says what became of the tensors, by formats.
func printQuantized(w io.Writer, all []library.Quantized) {
	type pair struct{ from, to string }
	groups, finer := map[pair]*library.Quantized{}, 0
	count := map[pair]int{}
	var total library.Quantized
	for _, q := range all {
		p := pair{q.From.Name, q.To.Name}
		if groups[p] == nil {
			groups[p] = &library.Quantized{}
		}
		count[p]++
		for _, sum := range []*library.Quantized{groups[p], &total} {
			sum.Was, sum.Bytes, sum.Values = sum.Was+q.Was, sum.Bytes+q.Bytes, sum.Values+q.Values
			sum.Error, sum.Size = sum.Error+q.Error, sum.Size+q.Size
		}
		if q.Finer {
			finer++
		}
	}
	var order []pair
	for p := range groups {
		order = append(order, p)
	}
	slices.SortFunc(order, func(a, b pair) int { return cmp.Compare(groups[b].Was, groups[a].Was) })
	fmt.Fprintf(w, "%-8s %-8s %8s %12s %12s %11s %9s\n", "from", "to", "tensors", "bytes before", "after", "bits/value", "error")
	line := func(from, to string, n int, q *library.Quantized) {
		off := "exact"
		if q.Error > 0 {
			off = fmt.Sprintf("%.2f %%", 100*math.Sqrt(q.Error/q.Size))
		}
		fmt.Fprintf(w, "%-8s %-8s %8d %12d %12d %11.3f %9s\n", from, to, n, q.Was, q.Bytes, 8*float64(q.Bytes)/float64(max(q.Values, 1)), off)
	}
	for _, p := range order {
		line(p.from, p.to, count[p], groups[p])
	}
	line("all", "", len(all), &total)
	if finer > 0 {
		fmt.Fprintf(w, "%d tensors are finer than asked for: their rows are not whole blocks\n", finer)
	}
}
