package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute/profile"
	"github.com/shoal-llm/shoal/pkg/engine"
)

// printOps shows what each operation of a model takes on the CPU, in the
// benchmark's prompt and in a step of decoding.
func (o *benchOptions) printOps(ctx context.Context, w io.Writer, m *library.Model) (err error) {
	be, err := openDevice(o.device, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	p := profile.Of(be)
	stage, err := openBenchStages(p, m, 1)
	if err != nil {
		return err
	}
	bc := &benchCase{name: m.Name, model: m, pipeline: engine.NewLocal(stage...)}
	defer func() { err = errors.Join(err, bc.pipeline.Close()) }()
	var prefill, decode []profile.Op
	for range 2 { // the first warms up
		bc.first = func() { prefill = p.Ops() }
		p.Ops()
		if err := bc.measure(ctx); err != nil {
			return err
		}
		decode = p.Ops()
	}
	fmt.Fprintf(w, "\n%s, operations of a prompt of %d:\n", m.Name, benchPrefill)
	profile.Print(w, prefill, 1, profile.Limits{})
	fmt.Fprintf(w, "\n%s, operations of a decode step:\n", m.Name)
	profile.Print(w, decode, benchDecode, profile.Limits{})
	return nil
}
