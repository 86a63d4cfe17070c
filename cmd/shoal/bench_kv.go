package main

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
)

// benchKVDecodes is the number of tokens decoded at the end of a window, to time.
const benchKVDecodes = 32

// benchKVOptions are the flags of `shoal bench kv`.
type benchKVOptions struct {
	models  string
	save    string
	classes []string
	windows int
	window  int
	device  deviceOptions
}

func newBenchKV() *cobra.Command {
	var o benchKVOptions
	c := &cobra.Command{
		Use:   "kv MODEL FILE",
		Short: "What each class of KV cache costs in quality, and saves in bytes",
		Long: `Run windows of a text through a model with each class of KV cache, and compare
the predictions of every position with those of a float32 cache: mean
Kullback-Leibler divergence, agreement of the likeliest token, perplexity, bytes of
a token (accounted and predicted), and decode speed after a whole window.`,
		Args: exactArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args[0], args[1]) },
	}
	f := c.Flags()
	f.StringVar(&o.models, "models", "", "folder of GGUF files")
	f.StringVar(&o.save, "save", "", "JSON file of figures to merge the results into")
	f.StringSliceVar(&o.classes, "kv", []string{"16", "8", "4", "3", "2"}, "classes to compare with float32, as for --kv of up")
	f.IntVar(&o.windows, "windows", 4, "windows of the text, without overlap")
	f.IntVar(&o.window, "window", 2048, "tokens of a window")
	o.device.flags(f)
	return c
}

// kvResult is what is known of one class.
type kvResult struct {
	kl, loss, agree float64 // sums over rows
	rows, losses    int
	bytes           float64 // of a token, by the backend's account
	predicted       float64 // of a token, by the planner's
	decode          float64 // tokens a second, of the fastest window
}

func (o *benchKVOptions) run(c *cobra.Command, name, file string) error {
	m, ids, err := openText(o.models, name, file)
	if err != nil {
		return err
	}
	defer m.Close()
	if o.window < benchKVDecodes || o.windows < 1 || o.window+benchKVDecodes > m.Spec.Context {
		return fmt.Errorf("--windows %d, --window %d: want 1 or more, and %d to %d", o.windows, o.window, benchKVDecodes, m.Spec.Context-benchKVDecodes)
	}
	if len(ids) < o.windows*o.window {
		return fmt.Errorf("%s has %d tokens, %d windows of %d are wanted", file, len(ids), o.windows, o.window)
	}
	var figures []measure.Figure
	command := fmt.Sprintf("shoal bench kv %s %s --windows %d --window %d", filepath.Base(name), filepath.ToSlash(file), o.windows, o.window)
	prefix := fmt.Sprintf("kv_%s_%s_%d", m.Name, baseName(file), o.window)
	for i, s := range append([]string{"float32"}, o.classes...) {
		class, err := compute.ParseKVClass(s)
		if err != nil {
			return err
		}
		r, machine, err := o.measure(c, m, class, ids)
		if err != nil {
			return fmt.Errorf("KV class %s: %w", class, err)
		}
		if i == 0 {
			fmt.Fprintf(c.OutOrStdout(), "%s on %s, %d windows of %d\n%-8s %12s %10s %9s %11s %10s %9s\n", m.Name, filepath.Base(file), o.windows, o.window,
				"class", "bytes/token", "predicted", "KL", "same top", "perplexity", "tokens/s")
		}
		n := float64(r.rows)
		ppl := math.Exp(r.loss / float64(r.losses))
		fmt.Fprintf(c.OutOrStdout(), "%-8s %12.1f %10.1f %9.5f %9.2f %% %10.4f %9.1f\n", class, r.bytes, r.predicted, r.kl/n, 100*r.agree/n, ppl, r.decode)
		for _, f := range []measure.Figure{
			{Name: "kl", Value: r.kl / n, Unit: "nats"}, {Name: "same_top", Value: r.agree / n, Unit: "share"}, {Name: "perplexity", Value: ppl},
			{Name: "bytes", Value: r.bytes, Unit: "bytes/token", Baseline: r.predicted, Ratio: r.bytes / r.predicted},
			{Name: "decode", Value: r.decode, Unit: "tokens/s"},
		} {
			f.Name = fmt.Sprintf("%s_%s_%s", prefix, strings.ReplaceAll(class.String(), "/", "g"), f.Name)
			f.Runs, f.Machine, f.Command = o.windows, machine, command
			figures = append(figures, f)
		}
	}
	if o.save == "" {
		return nil
	}
	return measure.Save(o.save, figures)
}

// measure runs all windows with a class and with float32, in step.
func (o *benchKVOptions) measure(c *cobra.Command, m *library.Model, class compute.KVClass, ids []int32) (r kvResult, machine string, err error) {
	facts, err := m.Footprint(class)
	if err != nil {
		return r, "", err
	}
	pages := windowPages(o.positions())
	pools := class.Pools(1, perplexityRows, pages)
	page := float64(pages)*float64(facts.KVPage) + float64(pools.Recent)*float64(facts.KVRecent) + float64(pools.Upper)*float64(facts.KVUpper)
	r.predicted = page * float64(m.Spec.Layers) / float64(pages*compute.PageTokens)
	be, exact, err := o.open(c, m, compute.KVClass{})
	if err != nil {
		return r, "", err
	}
	defer be.Close()
	defer exact.Close()
	packedBE, packed, err := o.open(c, m, class)
	if err != nil {
		return r, "", err
	}
	defer packedBE.Close()
	defer packed.Close()
	r.bytes = float64(packedBE.Used().Caches) / float64(windowPages(o.positions())*compute.PageTokens)
	for w := range o.windows {
		if err := c.Context().Err(); err != nil {
			return r, "", err
		}
		if err := o.compare(&r, exact, packed, ids[w*o.window:(w+1)*o.window], m.Spec.Vocab); err != nil {
			return r, "", err
		}
	}
	return r, be.Info().Name, nil
}

// positions are those of a window and of what is decoded after it.
func (o *benchKVOptions) positions() int { return o.window + benchKVDecodes }

func (o *benchKVOptions) open(c *cobra.Command, m *library.Model, class compute.KVClass) (compute.Backend, *engine.Local, error) {
	be, err := openDevice(o.device, newLogger(c))
	if err != nil {
		return nil, nil, err
	}
	local, err := openWindow(be, m, o.positions(), class)
	if err != nil {
		return nil, nil, errors.Join(err, be.Close())
	}
	return be, local, nil
}

// compare adds a window to r, and times what is decoded after it.
func (o *benchKVOptions) compare(r *kvResult, exact, packed *engine.Local, ids []int32, vocab int) error {
	ops := []frame.Op{{Open: &frame.Open{Attempt: 1}}}
	for at := 0; at < len(ids); at += perplexityRows {
		n := min(perplexityRows, len(ids)-at)
		want, err := windowLogits(exact, ops, ids, at, n)
		if err != nil {
			return err
		}
		got, err := windowLogits(packed, ops, ids, at, n)
		if err != nil {
			return err
		}
		ops = nil
		for i := range n {
			w, g := want[i*vocab:(i+1)*vocab], got[i*vocab:(i+1)*vocab]
			kl, same := divergence(w, g)
			r.kl, r.agree, r.rows = r.kl+kl, r.agree+same, r.rows+1
			if next := at + i + 1; next < len(ids) {
				r.loss, r.losses = r.loss+negativeLogProb(g, ids[next]), r.losses+1
			}
		}
	}
	longer := append(slices.Clone(ids), ids[:benchKVDecodes]...)
	began := time.Now()
	for i := range benchKVDecodes {
		if _, err := windowLogits(packed, nil, longer, len(ids)+i, 1); err != nil {
			return err
		}
	}
	r.decode = max(r.decode, benchKVDecodes/time.Since(began).Seconds())
	end := []frame.Op{{Close: &frame.Close{}}}
	_, err := exact.Step(end, nil)
	_, err2 := packed.Step(end, nil)
	return errors.Join(err, err2)
}

// divergence returns the Kullback-Leibler divergence of softmax(got) from
// softmax(want), in nats, and 1 if both have the same largest value.
func divergence(want, got []float32) (kl, same float64) {
	top := slices.Max(want)
	id := slices.Index(want, top)
	base, other := negativeLogProb(want, int32(id)), negativeLogProb(got, int32(id))
	for i, w := range want {
		lp := float64(w) - float64(top) - base
		lq := float64(got[i]) - float64(got[id]) - other
		kl += math.Exp(lp) * (lp - lq)
	}
	if got[id] == slices.Max(got) {
		same = 1
	}
	return kl, same
}
