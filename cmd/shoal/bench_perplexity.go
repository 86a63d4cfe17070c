package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
)

// Sizes of a perplexity run: text is cut into windows without overlap, and a
// step asks for the logits of all its rows.
const (
	perplexityWindow = 1024
	perplexityRows   = 256
)

// perplexityOptions are the flags of `shoal bench perplexity`.
type perplexityOptions struct {
	models   string
	save     string
	figure   string
	baseline float64
	device   deviceOptions
	kv       kvFlag
}

func newBenchPerplexity() *cobra.Command {
	var o perplexityOptions
	c := &cobra.Command{
		Use:   "perplexity MODEL FILE",
		Short: "How well a model predicts a text: exp of the mean negative log-probability of its tokens",
		Long: `Perplexity of a text, in consecutive windows of 1024 tokens without overlap.
Control tokens written in the text count as such. Lower is better; compare a
precision or a kernel set with --reference.`,
		Args: exactArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args[0], args[1]) },
	}
	f := c.Flags()
	f.StringVar(&o.models, "models", "", "folder of GGUF files")
	f.StringVar(&o.save, "save", "", "JSON file of figures to merge the result into")
	f.StringVar(&o.figure, "figure", "", "name of the figure (default perplexity_MODEL_FILE)")
	f.Float64Var(&o.baseline, "baseline", 0, "perplexity to compare with")
	o.kv.flags(f)
	o.device.flags(f)
	return c
}

func (o *perplexityOptions) run(c *cobra.Command, name, file string) error {
	m, ids, err := openText(o.models, name, file)
	if err != nil {
		return err
	}
	defer m.Close()
	be, err := openDevice(o.device, newLogger(c))
	if err != nil {
		return err
	}
	defer be.Close()
	ppl, err := perplexity(c.Context(), be, m, ids, o.kv.KVClass)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "%s on %s (%s, %d tokens): %.4f\n", m.Name, filepath.Base(file), be.Info().Class, len(ids), ppl)
	if o.save == "" {
		return nil
	}
	if o.figure == "" {
		o.figure = "perplexity_" + m.Name + "_" + baseName(file)
	}
	f := measure.Figure{
		Name: o.figure, Value: ppl, Runs: 1, Machine: be.Info().Name,
		Command: "shoal bench perplexity " + name + " " + filepath.ToSlash(file), Baseline: o.baseline,
	}
	if o.baseline != 0 {
		f.Ratio = o.baseline / ppl
	}
	return measure.Save(o.save, []measure.Figure{f})
}

// openText opens a model and returns the ids that it reads a file as.
func openText(models, name, file string) (m *library.Model, ids []int32, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	if m, err = (library.Library{Dir: models}).Open(name); err != nil {
		return nil, nil, err
	}
	vocab, err := m.Vocab()
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	return m, vocab.EncodeWithSpecial(string(text)), nil
}

// baseName is a file's name without folder and extension.
func baseName(file string) string { return strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)) }

// openWindow loads a whole model for windows of so many ids.
func openWindow(be compute.Backend, m *library.Model, ids int, kv compute.KVClass) (*engine.Local, error) {
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: model.Whole(m.Spec), Pages: kv.Pages(ids), Slots: 1, Rows: perplexityRows, Context: ids, KV: kv,
	})
	if err != nil {
		return nil, err
	}
	return engine.NewLocal(st), nil
}

// perplexity runs all windows of ids through the model.
func perplexity(ctx context.Context, be compute.Backend, m *library.Model, ids []int32, kv compute.KVClass) (float64, error) {
	window := min(perplexityWindow, m.Spec.Context)
	local, err := openWindow(be, m, window, kv)
	if err != nil {
		return 0, err
	}
	defer local.Close()
	var loss float64
	n := 0
	for from := 0; from < len(ids); from += window {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		part := ids[from:min(from+window, len(ids))]
		l, err := windowLoss(local, part, m.Spec.Vocab)
		if err != nil {
			return 0, err
		}
		loss += l
		n += len(part) - 1
	}
	return math.Exp(loss / float64(n)), nil
}

// windowLoss returns the sum of negative log-probabilities of the ids after the
// first.
func windowLoss(l *engine.Local, ids []int32, vocab int) (float64, error) {
	var loss float64
	ops := []frame.Op{{Open: &frame.Open{Attempt: 1}}}
	for at := 0; at < len(ids); at += perplexityRows {
		n := min(perplexityRows, len(ids)-at)
		logits, err := windowLogits(l, ops, ids, at, n)
		if err != nil {
			return 0, err
		}
		ops = nil
		for i := range n {
			if next := at + i + 1; next < len(ids) {
				loss += negativeLogProb(logits[i*vocab:(i+1)*vocab], ids[next])
			}
		}
	}
	_, err := l.Step([]frame.Op{{Close: &frame.Close{}}}, nil)
	return loss, err
}

// windowLogits computes n rows of ids from at on.
func windowLogits(l *engine.Local, ops []frame.Op, ids []int32, at, n int) ([]float32, error) {
	res, err := l.Step(ops, []frame.Span{{
		Attempt: 1, Start: int32(at), Tokens: ids[at : at+n], Output: frame.OutputLogits, Drafted: uint8(n - 1),
	}})
	if err != nil {
		return nil, err
	}
	if s := res.Sampled[0]; s.Err != "" {
		return nil, fmt.Errorf("position %d: %s", at, s.Err)
	}
	return res.Sampled[0].Logits, nil
}

// negativeLogProb is −log softmax(logits)[id].
func negativeLogProb(logits []float32, id int32) float64 {
	return logSumExp(logits) - float64(logits[id])
}

// logSumExp is the logarithm of the sum of exp(logits).
func logSumExp(logits []float32) float64 {
	most := slices.Max(logits)
	var sum float64
	for _, v := range logits {
		sum += math.Exp(float64(v - most))
	}
	return math.Log(sum) + float64(most)
}
