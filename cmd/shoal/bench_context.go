package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu/bandwidth"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
)

// Sizes of a long-context run.
const (
	contextRows    = 256
	passageTokens  = 48 // ids of a passage that is to be recalled
	passageCue     = 16 // of them, those that are given again
	contextDecodes = 16
	bandwidthProbe = 256 << 20
)

// benchContextOptions are the flags of `shoal bench context`.
type benchContextOptions struct {
	models    string
	save      string
	classes   []string
	positions int
	passages  int
	device    deviceOptions
}

func newBenchContext() *cobra.Command {
	var o benchContextOptions
	c := &cobra.Command{
		Use:   "context MODEL FILE",
		Short: "One long context in each class of KV cache: memory, recall, decode speed",
		Long: `Fill a context of many positions with a text, passages from elsewhere spread in it, and
then begin each passage again: how likely are its other ids, beside how likely they
were where the passage stood for the first time. A model that was made for fewer
positions is stretched by YaRN (Peng et al., arXiv:2309.00071). Memory is what a plan
predicts beside what the backend accounts, and the decode speed at the end stands
beside what the bytes of weights, keys and values that a token reads allow.`,
		Args: exactArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args[0], args[1]) },
	}
	f := c.Flags()
	f.StringVar(&o.models, "models", "", "folder of GGUF files")
	f.StringVar(&o.save, "save", "", "JSON file of figures to merge the results into")
	f.StringSliceVar(&o.classes, "kv", []string{"3", "4@128-3@1024", "4@128-3@1024+4:1"}, "classes, as for --kv of up")
	f.IntVar(&o.positions, "positions", 32768, "positions of the context")
	f.IntVar(&o.passages, "passages", 16, "passages to recall, spread evenly over the context")
	o.device.flags(f)
	return c
}

// contextTrial is a long context: its ids, and where the recalled ids of each passage
// stand for the first and for the second time.
type contextTrial struct {
	ids           []int32
	first, second []int
}

// newContextTrial fills positions with a text, over and over, with passages of its
// beginning, which stands nowhere else, in between, and with all of these at the end.
func newContextTrial(text []int32, positions, passages int) (contextTrial, error) {
	tail := passages * passageTokens
	if passages < 1 || positions < 4*tail || len(text) < 2*tail {
		return contextTrial{}, fmt.Errorf("%d passages of %d tokens do not fit %d positions four times and the text's %d twice", passages, passageTokens, positions, len(text))
	}
	var t contextTrial
	kept := slices.Collect(slices.Chunk(text[:tail], passageTokens))
	text = text[tail:]
	body := positions - tail
	for at := 0; len(t.ids) < body; {
		if i := len(t.first); i < passages && len(t.ids) >= body/(passages+1)*(i+1) && len(t.ids)+passageTokens <= body {
			t.first = append(t.first, len(t.ids)+passageCue)
			t.ids = append(t.ids, kept[i]...)
			continue
		}
		t.ids = append(t.ids, text[at%len(text)])
		at++
	}
	for _, p := range kept {
		t.second = append(t.second, len(t.ids)+passageCue)
		t.ids = append(t.ids, p...)
	}
	return t, nil
}

// stretched is a model file whose positions are stretched by YaRN.
type stretched struct {
	model.Source
	arch             string
	factor           float64
	original, length uint64
}

// Outline keeps the stretching where tensors are looked at without bytes.
func (s stretched) Outline() model.Source {
	s.Source = model.Outline(s.Source)
	return s
}

// Meta says that positions are stretched.
func (s stretched) Meta() model.Meta { return stretchedMeta{s.Source.Meta(), s} }

type stretchedMeta struct {
	model.Meta
	by stretched
}

// String names the scaling.
func (m stretchedMeta) String(key string) (string, bool) {
	if key == m.by.arch+".rope.scaling.type" {
		return "yarn", true
	}
	return m.Meta.String(key)
}

// Float64 gives the factor.
func (m stretchedMeta) Float64(key string) (float64, bool) {
	if key == m.by.arch+".rope.scaling.factor" {
		return m.by.factor, true
	}
	return m.Meta.Float64(key)
}

// Uint64 gives the contexts before and after.
func (m stretchedMeta) Uint64(key string) (uint64, bool) {
	switch key {
	case m.by.arch + ".rope.scaling.original_context_length":
		return m.by.original, true
	case m.by.arch + ".context_length":
		return m.by.length, true
	}
	return m.Meta.Uint64(key)
}

// stretch returns a model's source and spec for so many positions.
func stretch(m *library.Model, positions int) (model.Source, model.Spec, error) {
	if positions <= m.Spec.Context {
		return m.Source, m.Spec, nil
	}
	src := stretched{m.Source, m.Spec.Arch, float64(positions) / float64(m.Spec.Context), uint64(m.Spec.Context), uint64(positions)}
	spec, err := m.Arch.Parse(src)
	return src, spec, err
}

// contextResult is what a class made of a long context.
type contextResult struct {
	class            compute.KVClass
	predicted, used  uint64 // bytes: weights, cache and buffers
	cache, cacheUsed uint64 // of them, the cache
	fresh, recalled  float64
	right            float64 // share of recalled ids that are the likeliest
	prefill          time.Duration
	decode, bound    float64 // tokens a second
	reads            uint64  // bytes that a token reads
	read             float64 // bytes a second of memory
}

func (o *benchContextOptions) run(c *cobra.Command, name, file string) error {
	m, text, err := openText(o.models, name, file)
	if err != nil {
		return err
	}
	defer m.Close()
	trial, err := newContextTrial(text, o.positions-contextDecodes, o.passages)
	if err != nil {
		return err
	}
	be, err := openDevice(o.device, newLogger(c))
	if err != nil {
		return err
	}
	defer be.Close()
	region, err := bandwidth.New(bandwidthProbe)
	if err != nil {
		return err
	}
	defer region.Close()
	out := c.OutOrStdout()
	fmt.Fprintf(out, "%s, %d positions of %s, stretched %.3g times, %d passages\n%-26s %22s %22s %8s %8s %7s %9s %9s %9s\n", m.Name, o.positions, filepath.Base(file),
		max(1, float64(o.positions)/float64(m.Spec.Context)), o.passages, "class", "memory (predicted)", "cache (predicted)", "at first", "recalled", "right", "prefill", "tokens/s", "of bound")
	src, spec, err := stretch(m, o.positions)
	if err != nil {
		return err
	}
	m.Spec = spec // so all weigh the longer context
	var figures []measure.Figure
	for _, s := range o.classes {
		r, err := o.try(c, be, m, src, region, s, trial)
		if err != nil {
			return fmt.Errorf("KV class %s: %w", s, err)
		}
		fmt.Fprintf(out, "%-26s %10s (%8s) %10s (%8s) %8.3f %8.3f %6.1f%% %9s %9.1f %9.2f\n", r.class, bytesText(r.used), bytesText(r.predicted),
			bytesText(r.cacheUsed), bytesText(r.cache), r.fresh, r.recalled, 100*r.right, r.prefill.Round(time.Second), r.decode, r.decode/r.bound)
		figures = append(figures, o.figures(m, be.Info().Name, name, file, r)...)
	}
	if o.save == "" {
		return nil
	}
	return measure.Save(o.save, figures)
}

// try runs the context in one class.
func (o *benchContextOptions) try(c *cobra.Command, be compute.Backend, m *library.Model, src model.Source, region *bandwidth.Region, class string, trial contextTrial) (r contextResult, err error) {
	if r.class, err = compute.ParseKVClass(class); err != nil {
		return r, err
	}
	spec := m.Spec
	facts, err := m.Footprint(r.class)
	if err != nil {
		return r, err
	}
	pages := r.class.Pages(o.positions)
	pools := r.class.Pools(1, contextRows, pages)
	r.cache = uint64(spec.Layers) * (uint64(pages)*facts.KVPage + uint64(pools.Recent)*facts.KVRecent + uint64(pools.Upper)*facts.KVUpper + uint64(pools.Queries)*facts.KVQueries)
	weights := facts.Embed + facts.Head - facts.Tied
	for _, n := range facts.Layers {
		weights += n
	}
	r.predicted = weights + r.cache + contextRows*(facts.Row+facts.Logits)
	before := be.Used()
	st, err := engine.Open(be, m.Arch, src, spec, engine.Config{
		Epoch: 1, Part: model.Whole(spec), Pages: pages, Slots: 1, Rows: contextRows, Context: o.positions, KV: r.class,
	})
	if err != nil {
		return r, err
	}
	l := engine.NewLocal(st)
	defer l.Close()
	began := time.Now()
	if err := r.recall(c, l, trial, spec.Vocab); err != nil {
		return r, err
	}
	r.prefill = time.Since(began)
	longer := slices.Concat(trial.ids, trial.ids[:contextDecodes])
	for i := range contextDecodes {
		began := time.Now()
		if _, err := windowLogits(l, nil, longer, len(trial.ids)+i, 1); err != nil {
			return r, err
		}
		if i > 0 { // the first one wakes everything
			r.decode = max(r.decode, 1/time.Since(began).Seconds())
		}
	}
	r.reads = weights - facts.Embed + facts.Tied + r.readsOf(o.positions, facts, spec.Layers)
	for range 3 {
		rate, err := region.Read(region.Size(), be.Info().Threads, 1)
		if err != nil {
			return r, err
		}
		r.read = max(r.read, rate)
	}
	r.bound = r.read / float64(r.reads)
	now := be.Used()
	r.used, r.cacheUsed = now.Total()-before.Total(), now.Caches-before.Caches
	return r, nil
}

// readsOf returns what a row at the last of n positions reads of the cache.
func (r *contextResult) readsOf(n int, facts library.Footprint, layers int) uint64 {
	last, pages := (n-1)/compute.PageTokens, r.class.Pages(n)
	recent, upper := 0, 0
	if r.class.Steps() {
		recent = min(pages, r.class.Recent/compute.PageTokens+2)
	}
	if r.class.Upper != 0 {
		upper = min(last, r.class.Far/compute.PageTokens) - r.class.Recent/compute.PageTokens
	}
	return uint64(layers) * (uint64(recent)*facts.KVRecent + uint64(upper)*facts.KVUpper + uint64(pages-recent-upper)*facts.KVPage)
}

// recall feeds a context and notes how likely the ids of passages are.
func (r *contextResult) recall(c *cobra.Command, l *engine.Local, t contextTrial, vocab int) error {
	wanted := map[int]*float64{} // rows whose prediction counts
	for i, at := range t.first {
		for k := range passageTokens - passageCue {
			wanted[at+k-1], wanted[t.second[i]+k-1] = &r.fresh, &r.recalled
		}
	}
	ops := []frame.Op{{Open: &frame.Open{Attempt: 1}}}
	for at := 0; at < len(t.ids); {
		if err := c.Context().Err(); err != nil {
			return err
		}
		n := r.class.Cut(at, min(contextRows, len(t.ids)-at))
		want := false
		for i := range n {
			want = want || wanted[at+i] != nil
		}
		span := frame.Span{Attempt: 1, Start: int32(at), Tokens: t.ids[at : at+n]}
		if want {
			span.Output, span.Drafted = frame.OutputLogits, uint8(n-1)
		}
		res, err := l.Step(ops, []frame.Span{span})
		if err != nil {
			return err
		}
		ops = nil
		for i := 0; want && i < n; i++ {
			sum := wanted[at+i]
			if sum == nil {
				continue
			}
			logits := res.Sampled[0].Logits[i*vocab : (i+1)*vocab]
			next := t.ids[at+i+1]
			*sum += negativeLogProb(logits, next)
			if sum == &r.recalled && logits[next] == slices.Max(logits) {
				r.right++
			}
		}
		at += n
	}
	n := float64(len(t.first) * (passageTokens - passageCue))
	r.fresh, r.recalled, r.right = r.fresh/n, r.recalled/n, r.right/n
	return nil
}

// figures are the results as they are kept.
func (o *benchContextOptions) figures(m *library.Model, machine, name, file string, r contextResult) (out []measure.Figure) {
	command := fmt.Sprintf("shoal bench context %s %s --positions %d", filepath.Base(name), filepath.ToSlash(file), o.positions)
	for _, f := range []measure.Figure{
		{Name: "memory", Value: float64(r.used), Unit: "bytes", Baseline: float64(r.predicted), Ratio: float64(r.predicted) / float64(r.used)},
		{Name: "cache", Value: float64(r.cacheUsed), Unit: "bytes", Baseline: float64(r.cache), Ratio: float64(r.cache) / float64(r.cacheUsed)},
		{Name: "at_first", Value: r.fresh, Unit: "nats"},
		{Name: "recalled", Value: r.recalled, Unit: "nats"},
		{Name: "recalled_right", Value: r.right, Unit: "of ids"},
		{Name: "decode", Value: r.decode, Unit: "tokens/s", Baseline: r.bound, Ratio: r.decode / r.bound},
	} {
		f.Name = fmt.Sprintf("context_%s_%d_%s_%s", m.Name, o.positions, kvNames.Replace(r.class.String()), f.Name)
		f.Runs, f.Machine, f.Command = 1, machine, command
		out = append(out, f)
	}
	return out
}
