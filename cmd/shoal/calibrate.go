package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/precision"
	"github.com/shoal-llm/shoal/internal/weights"
	"github.com/shoal-llm/shoal/pkg/compute"
)

// What --calibration may be besides a file.
const (
	ownWords      = "own"
	noCalibration = "none"
)

// wordsSeed fixes a model's own words.
const wordsSeed = 1

// calibrateOptions are the flags of commands that learn from a text what matters in a
// model.
type calibrateOptions struct {
	text   string
	tokens int
}

func (o *calibrateOptions) flags(f *pflag.FlagSet, text string) {
	f.StringVar(&o.text, "calibration", text, "text to learn from which weights matter: a file, `own` for what the model says of itself, or none")
	f.IntVar(&o.tokens, "calibration-tokens", 4800, "tokens of it")
}

// sequences returns the text; nil is none.
func (o *calibrateOptions) sequences(ctx context.Context, be compute.Backend, m *library.Model) ([][]int32, error) {
	n := o.tokens / precision.Length
	if n < 1 {
		return nil, fmt.Errorf("--calibration-tokens %d: want %d or more", o.tokens, precision.Length)
	}
	switch o.text {
	case noCalibration:
		return nil, nil
	case ownWords:
		vocab, err := m.Vocab()
		if err != nil {
			return nil, err
		}
		first := int32(0)
		if end := vocab.End(); len(end) > 0 {
			first = end[0]
		}
		return precision.Words(ctx, be, m, first, n, wordsSeed)
	}
	return readSequences(m, o.text, n)
}

// importance learns which columns matter. One thread adds up in one order.
func (o *calibrateOptions) importance(ctx context.Context, device deviceOptions, m *library.Model, log *slog.Logger) (library.Importance, error) {
	if o.text == noCalibration {
		return nil, nil
	}
	device.threads = 1
	be, err := openDevice(device, log)
	if err != nil {
		return nil, err
	}
	defer be.Close()
	sequences, err := o.sequences(ctx, be, m)
	if err != nil {
		return nil, fmt.Errorf("calibrate: %w", err)
	}
	return precision.Importance(ctx, be, m, sequences)
}

// measure finds out what rounding does to each part of a model.
func (o *calibrateOptions) measure(c *cobra.Command, be compute.Backend, m *library.Model, imp library.Importance) ([]precision.Unit, error) {
	ctx := c.Context()
	text := *o
	if text.text == noCalibration {
		text.text = ownWords
	}
	sequences, err := text.sequences(ctx, be, m)
	if err != nil {
		return nil, fmt.Errorf("measure: %w", err)
	}
	exact, err := m.Felt(library.Recipe{}, nil)
	if err != nil {
		return nil, err
	}
	judge, err := precision.NewJudge(ctx, be, exact, sequences)
	if err != nil {
		return nil, err
	}
	units, err := precision.Units(m)
	if err != nil {
		return nil, err
	}
	show := newShown(c.ErrOrStderr())
	defer show.end()
	progress := show.progress(m.Name)
	return units, precision.Measure(ctx, judge, m, imp, units, func(done, of int) {
		progress(weights.Progress{Phase: "measure", Note: fmt.Sprintf("%d of %d", done, of)})
	})
}
