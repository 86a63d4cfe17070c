package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/sample"
	"github.com/shoal-llm/shoal/pkg/token"
)

// runOptions are the flags of `shoal run`.
type runOptions struct {
	models    string
	system    string
	raw       bool
	images    []string
	stats     bool
	maxTokens int32
	spec      sample.Spec
	device    deviceOptions
	kv        kvFlag
	lora      loraOptions
	recipe    recipeFlag
	weights   weightOptions
}

func newRun() *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run MODEL [PROMPT|-]",
		Short: "Answer one prompt in the terminal, without a cluster",
		Long: `Answer one prompt in the terminal, without a cluster. MODEL is an embedded model
(tiny, tiny-int4), a file in --models, the path of a GGUF file, or a source that it is
fetched from, as ` + "`shoal pull`" + ` takes it. Without PROMPT, or with -, the prompt is read
from standard input.`,
		Example: `  shoal run tiny "Tell me a story about a fox."
  echo "What is 17 + 25?" | shoal run tiny -
  shoal run ./model.gguf "Hello!" --temperature 0 --stats
  shoal run ./llava "What is this?" --image photo.jpg`,
		Args: rangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			prompt, err := promptFrom(c.InOrStdin(), args[1:])
			if err != nil {
				return err
			}
			return o.run(c, args[0], prompt)
		},
	}
	f := c.Flags()
	f.StringVar(&o.models, "models", "", "folder of GGUF files")
	o.kv.flags(f)
	o.lora.flags(f, ": the answer goes through it")
	o.recipe.flags(f)
	o.weights.flags(f)
	o.weights.verifyFlag(f)
	f.StringVar(&o.system, "system", "", "system message")
	f.StringArrayVar(&o.images, "image", nil, "a picture before the prompt: a PNG, JPEG, WebP or GIF file; may be given several times")
	f.BoolVar(&o.raw, "raw", false, "continue the prompt as it is, without the chat template")
	f.BoolVar(&o.stats, "stats", false, "print speeds to standard error")
	f.Int32Var(&o.maxTokens, "max-tokens", 500, "the most tokens to answer")
	f.Float32Var(&o.spec.Temperature, "temperature", 0.7, "0 always takes the likeliest token")
	f.Int32Var(&o.spec.TopK, "top-k", 0, "sample from the K likeliest tokens; 0 is off")
	f.Float32Var(&o.spec.TopP, "top-p", 0, "sample from the likeliest tokens that make up P; 0 is off")
	f.Float32Var(&o.spec.MinP, "min-p", 0, "drop tokens less likely than P times the likeliest; 0 is off")
	f.Uint64Var(&o.spec.Seed, "seed", 0, "same seed, same answer")
	o.device.flags(f)
	return c
}

// promptFrom takes the prompt from the arguments or from standard input.
func promptFrom(in io.Reader, args []string) (string, error) {
	if len(args) == 1 && args[0] != "-" {
		return args[0], nil
	}
	const most = 1 << 20
	b, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return "", fmt.Errorf("read prompt: %w", err)
	}
	if len(b) > most {
		return "", fmt.Errorf("read prompt: more than %d bytes", most)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

func (o *runOptions) run(c *cobra.Command, name, prompt string) (err error) {
	found, err := o.weights.open(library.Library{Dir: o.models}, newLogger(c))
	if err != nil {
		return usageError{c.CommandPath(), err}
	}
	defer func() { err = errors.Join(err, found.close()) }()
	open, err := found.open(c.Context(), name, true, newShown(c.ErrOrStderr()))
	if err != nil {
		return err
	}
	m := open.Model
	defer func() { _ = m.Close() }()
	verified, err := found.verifyRun(c.Context(), open, newShown(c.ErrOrStderr()), newLogger(c))
	if err != nil {
		return err
	}
	defer verified()
	if m, err = o.recipe.apply(m, c.ErrOrStderr()); err != nil {
		return err
	}
	vocab, err := m.Vocab()
	if err != nil {
		return err
	}
	ids, shown, err := o.encode(m, vocab, prompt)
	if err != nil {
		return err
	}
	if len(ids) >= m.Spec.Context {
		return fmt.Errorf("the prompt has %d tokens, the model's context is %d", len(ids), m.Spec.Context)
	}
	o.spec.MaxTokens = min(o.maxTokens, int32(m.Spec.Context-len(ids)))
	o.spec.Stop = vocab.End()
	if err := o.spec.Validate(); err != nil {
		return usageError{c.CommandPath(), err}
	}
	be, err := openDevice(o.device, newLogger(c))
	if err != nil {
		return err
	}
	defer be.Close()
	adapters, err := o.openAdapter(c, m)
	if err != nil {
		return err
	}
	st, err := engine.Open(be, m.Arch, m.Source, m.Spec, engine.Config{
		Epoch: 1, Part: model.Whole(m.Spec), Slots: 1, Rows: 256,
		Pages: (len(ids)+int(o.spec.MaxTokens))/64 + 1, Context: m.Spec.Context, KV: o.kv.KVClass, Adapters: adapters,
	})
	if err != nil {
		return errors.Join(m.Err(), err)
	}
	l := engine.NewLocal(st)
	if l.Rows, err = look(c.Context(), m, shown); err != nil {
		return err
	}
	return o.print(c, l, vocab, ids, shown)
}

// openAdapter opens the adapter of the answer, whose files stay open until the process
// ends; there may be none.
func (o *runOptions) openAdapter(c *cobra.Command, m *library.Model) ([]model.Adapter, error) {
	if len(o.lora.adapters) > 1 {
		return nil, usageError{c.CommandPath(), errors.New("--lora is given more than once: one answer goes through one adapter")}
	}
	all, _, err := o.lora.open(m, nil)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return []model.Adapter{all[0].Model(all[0].Name)}, nil
}

// print streams the answer and the figures.
func (o *runOptions) print(c *cobra.Command, l *engine.Local, vocab *token.Vocab, ids []int32, pictures []seenPicture) error {
	out := c.OutOrStdout()
	detok := vocab.NewDetokenizer()
	start := time.Now()
	var first time.Time
	n := 0
	open := &frame.Open{Attempt: 1, Sampling: o.spec}
	if names, _, _ := o.lora.named(nil); len(names) > 0 {
		open.Adapter = names[0]
	}
	for _, p := range pictures {
		open.Pictures = append(open.Pictures, p.Picture)
	}
	for s, err := range l.Generate(c.Context(), open, ids) {
		if err != nil {
			fmt.Fprintln(out)
			return stopped(err)
		}
		if n == 0 {
			first = time.Now()
		}
		for _, id := range s.IDs {
			n++
			if _, err := io.WriteString(out, detok.Push(id)); err != nil {
				return err
			}
		}
	}
	fmt.Fprintln(out, detok.Flush())
	if o.stats {
		fmt.Fprintf(os.Stderr, "%d prompt tokens in %v (%.0f tokens/s), %d tokens at %.0f tokens/s\n",
			len(ids), first.Sub(start).Round(time.Millisecond), float64(len(ids))/first.Sub(start).Seconds(),
			n, float64(n-1)/time.Since(first).Seconds())
	}
	return nil
}

// stopped says in words that the user ended an answer.
func stopped(err error) error {
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	return err
}
