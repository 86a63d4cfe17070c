package main

import (
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

// Tokens decoded at the end of a window, to time, and those of one run.
const (
	benchKVDecodes = 32
	benchKVRun     = 8
)

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
a token (accounted and predicted), and decode speed after a whole window. Weights in
formats that are multiplied by float32 activations (F16) show what the cache alone
costs; others round activations to int8, and a change of any bit then costs about
.003 nats.`,
		Args: exactArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args[0], args[1]) },
	}
	f := c.Flags()
	f.StringVar(&o.models, "models", "", "folder of GGUF files")
	f.StringVar(&o.save, "save", "", "JSON file of figures to merge the results into")
	f.StringSliceVar(&o.classes, "kv", []string{"16", "8", "4", "3", "2", "4@128-3@1024", "4@128-2@1024"}, "classes to compare with float32, as for --kv of up")
	f.IntVar(&o.windows, "windows", 4, "windows of the text, without overlap")
	f.IntVar(&o.window, "window", 2048, "tokens of a window")
	o.device.flags(f)
	return c
}

// kvNames makes names of figures of classes.
var kvNames = strings.NewReplacer("/", "g", "@", "after", "-", "to", "+", "thin", ":", "to")

// kvSubject is a class under test: a whole model with a cache of it, and what is
// known so far.
type kvSubject struct {
	class     compute.KVClass
	local     *engine.Local
	bytes     float64 // of a token, by the backend's account
	predicted float64 // of a token, by the planner's

	kl, loss, agree float64 // sums over rows
	rows, losses    int
	decode          float64 // tokens a second, of the fastest run
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
	be, err := openDevice(o.device, newLogger(c))
	if err != nil {
		return err
	}
	defer be.Close()
	var subjects []*kvSubject
	for _, s := range append([]string{"float32"}, o.classes...) {
		subject, err := o.open(be, m, s)
		if err != nil {
			return fmt.Errorf("KV class %s: %w", s, err)
		}
		defer subject.local.Close()
		subjects = append(subjects, subject)
	}
	for w := range o.windows {
		if err := o.compare(c, subjects, ids[w*o.window:(w+1)*o.window], m.Spec.Vocab); err != nil {
			return err
		}
	}
	o.print(c, m, file, subjects)
	if o.save == "" {
		return nil
	}
	return measure.Save(o.save, o.figures(m, file, be.Info().Name, name, subjects))
}

// open loads a model with a cache of a class.
func (o *benchKVOptions) open(be compute.Backend, m *library.Model, class string) (*kvSubject, error) {
	kv, err := compute.ParseKVClass(class)
	if err != nil {
		return nil, err
	}
	facts, err := m.Footprint(kv)
	if err != nil {
		return nil, err
	}
	s := &kvSubject{class: kv}
	pages := kv.Pages(o.positions())
	pools := kv.Pools(1, perplexityRows, pages)
	layer := uint64(pages)*facts.KVPage + uint64(pools.Recent)*facts.KVRecent + uint64(pools.Upper)*facts.KVUpper + uint64(pools.Queries)*facts.KVQueries
	tokens := float64((o.positions() + compute.PageTokens - 1) / compute.PageTokens * compute.PageTokens)
	s.predicted = float64(layer) * float64(m.Spec.Layers) / tokens
	before := be.Used().Caches
	if s.local, err = openWindow(be, m, o.positions(), kv); err != nil {
		return nil, err
	}
	s.bytes = float64(be.Used().Caches-before) / tokens
	return s, nil
}

// positions are those of a window and of what is decoded after it.
func (o *benchKVOptions) positions() int { return o.window + benchKVDecodes }

// compare runs a window through all subjects in step, the first of which is the
// one to compare with, and then times what each decodes after it, in turns.
func (o *benchKVOptions) compare(c *cobra.Command, subjects []*kvSubject, ids []int32, vocab int) error {
	ops := []frame.Op{{Open: &frame.Open{Attempt: 1}}}
	for at := 0; at < len(ids); at += perplexityRows {
		if err := c.Context().Err(); err != nil {
			return err
		}
		n := min(perplexityRows, len(ids)-at)
		var exact []prediction
		for _, s := range subjects {
			logits, err := windowLogits(s.local, ops, ids, at, n)
			if err != nil {
				return fmt.Errorf("KV class %s: %w", s.class, err)
			}
			if exact == nil {
				for i := range n {
					exact = append(exact, predict(slices.Clone(logits[i*vocab:(i+1)*vocab])))
				}
			}
			for i := range n {
				next := int32(-1)
				if at+i+1 < len(ids) {
					next = ids[at+i+1]
				}
				s.add(&exact[i], logits[i*vocab:(i+1)*vocab], next)
			}
		}
		ops = nil
	}
	longer := append(slices.Clone(ids), ids[:benchKVDecodes]...)
	for from := 0; from < benchKVDecodes; from += benchKVRun {
		for _, s := range subjects {
			began := time.Now()
			for i := range benchKVRun {
				if _, err := windowLogits(s.local, nil, longer, len(ids)+from+i, 1); err != nil {
					return fmt.Errorf("KV class %s: %w", s.class, err)
				}
			}
			s.decode = max(s.decode, benchKVRun/time.Since(began).Seconds())
		}
	}
	for _, s := range subjects {
		if _, err := s.local.Step([]frame.Op{{Close: &frame.Close{}}}, nil); err != nil {
			return err
		}
	}
	return nil
}

// prediction is what logits say of the next token.
type prediction struct {
	logits  []float32
	shares  []float32 // probabilities
	entropy float64   // negative, in nats
	top     int
}

func predict(logits []float32) prediction {
	p := prediction{logits: logits, top: slices.Index(logits, slices.Max(logits))}
	total := logSumExp(logits)
	for _, v := range logits {
		share := math.Exp(float64(v) - total)
		p.shares = append(p.shares, float32(share))
		if share > 0 {
			p.entropy += share * (float64(v) - total)
		}
	}
	return p
}

// add counts a row: the divergence of its prediction from the exact one, in nats,
// whether the likeliest token is the same, and what it says of the next one.
func (s *kvSubject) add(exact *prediction, logits []float32, next int32) {
	total := logSumExp(logits)
	cross := 0.0
	for i, share := range exact.shares {
		cross += float64(share) * float64(logits[i])
	}
	s.kl, s.rows = s.kl+exact.entropy-(cross-total), s.rows+1
	if logits[exact.top] == slices.Max(logits) {
		s.agree++
	}
	if next >= 0 {
		s.loss, s.losses = s.loss+total-float64(logits[next]), s.losses+1
	}
}

func (s *kvSubject) perplexity() float64 { return math.Exp(s.loss / float64(s.losses)) }

func (o *benchKVOptions) print(c *cobra.Command, m *library.Model, file string, subjects []*kvSubject) {
	out := c.OutOrStdout()
	fmt.Fprintf(out, "%s on %s, %d windows of %d\n%-16s %12s %10s %9s %11s %10s %9s %8s\n", m.Name, filepath.Base(file), o.windows, o.window,
		"class", "bytes/token", "predicted", "KL", "same top", "perplexity", "tokens/s", "ratio")
	for _, s := range subjects {
		n := float64(s.rows)
		fmt.Fprintf(out, "%-16s %12.1f %10.1f %9.5f %9.2f %% %10.4f %9.1f %8.2f\n", s.class, s.bytes, s.predicted,
			s.kl/n, 100*s.agree/n, s.perplexity(), s.decode, s.decode/subjects[0].decode)
	}
}

// figures are the results as they are kept.
func (o *benchKVOptions) figures(m *library.Model, file, machine, name string, subjects []*kvSubject) (out []measure.Figure) {
	command := fmt.Sprintf("shoal bench kv %s %s --windows %d --window %d", filepath.Base(name), filepath.ToSlash(file), o.windows, o.window)
	for _, s := range subjects {
		n, exact := float64(s.rows), subjects[0]
		for _, f := range []measure.Figure{
			{Name: "kl", Value: s.kl / n, Unit: "nats"},
			{Name: "perplexity", Value: s.perplexity(), Baseline: exact.perplexity(), Ratio: exact.perplexity() / s.perplexity()},
			{Name: "bytes", Value: s.bytes, Unit: "bytes/token", Baseline: s.predicted, Ratio: s.predicted / s.bytes},
			{Name: "decode", Value: s.decode, Unit: "tokens/s", Baseline: exact.decode, Ratio: s.decode / exact.decode},
		} {
			if f.Name == "kl" && s == exact {
				continue // with itself
			}
			f.Name = fmt.Sprintf("kv_%s_%s_%d_%s_%s", m.Name, baseName(file), o.window, kvNames.Replace(s.class.String()), f.Name)
			f.Runs, f.Machine, f.Command = o.windows, machine, command
			out = append(out, f)
		}
	}
	return out
}
