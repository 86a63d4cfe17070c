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
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

func newQuantize() *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "quantize IN OUT",
		Short: "Write a GGUF file with weights in fewer bits",
		Long: `Write the GGUF file IN as OUT with matrices in groups of few bits, rounded with
scales that keep the squared error small: int8 is Q8_0, int4 is Q4_0, int3 is Q3_K and
int2 is Q2_K, formats that every GGUF program reads. The embedding and the head become
int8; vectors and routers of experts stay. Rows that are not whole blocks of 256 values
cannot be int3 or int2 and become int4: the report says how many.`,
		Args: exactArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return runQuantize(c, args[0], args[1], to) },
	}
	c.Flags().StringVar(&to, "to", "int4", "precision: "+strings.Join(library.Precisions(), ", "))
	return c
}

// runQuantize writes beside the target and renames, so that no part of a file is
// taken for a model.
func runQuantize(c *cobra.Command, in, out, to string) (err error) {
	if !slices.Contains(library.Precisions(), to) {
		return usageError{c.CommandPath(), fmt.Errorf("--to %s: want %s", to, strings.Join(library.Precisions(), ", "))}
	}
	f, err := gguf.Open(in, gguf.Options{Formats: formats.All()})
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := os.Stat(out); err == nil {
		return fmt.Errorf("%s is there already: remove it, or name another file", out)
	}
	part, err := os.OpenFile(out+".part", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	var done []library.Quantized
	err = library.Quantize(c.Context(), part, f, to, func(q library.Quantized) { done = append(done, q) })
	if err = errors.Join(err, part.Close()); err != nil {
		return errors.Join(fmt.Errorf("quantize %s: %w", in, err), os.Remove(part.Name()))
	}
	if err := os.Rename(part.Name(), out); err != nil {
		return err
	}
	printQuantized(c.OutOrStdout(), done)
	return nil
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
