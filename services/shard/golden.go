package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/engine"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/model"
)

// goldenRows is how many positions a stage's first layer is checked with, and
// goldenBatch how many rows they are computed among the second time: the kernels of
// prompts are others than those of single rows, and both are compiled before the stage
// serves.
const (
	goldenRows  = 3
	goldenBatch = 32
)

// golden is what the first layer of a stage must compute: a device with a
// reference shows by its own weights that it can. Without a reference it is nil,
// and nothing is checked.
type golden struct {
	dev  *device
	m    *Model
	part model.Part
	want chan goldenResult // capacity 1
}

type goldenResult struct {
	values []float32
	err    error
}

// expect computes the first layer of a part on the device's reference, while the
// device itself is being loaded.
func expect(d *device, m *Model, part model.Part) *golden {
	if d.reference == nil {
		return nil
	}
	g := &golden{dev: d, m: m, part: model.Part{First: part.First, End: part.First + 1, Embed: part.Embed}, want: make(chan goldenResult, 1)}
	g.part.Head = g.part.End == m.Spec.Layers
	go func() {
		values, err := g.reference()
		g.want <- goldenResult{values, err}
	}()
	return g
}

// forget waits until the model's file is not read any more.
func (g *golden) forget() {
	if g != nil {
		<-g.want
	}
}

// reference computes the layer on the reference.
func (g *golden) reference() (values []float32, err error) {
	be, err := g.dev.reference()
	if err != nil {
		return nil, fmt.Errorf("open the reference: %w", err)
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	e, err := loadEngine(be, g.m.Arch, g.m.Source, g.m.Spec, g.config())
	if err != nil {
		return nil, fmt.Errorf("load onto the reference: %w", err)
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	return g.step(be, e, 1, 1, goldenRows)
}

// discard gives up what was loaded and will not serve.
func (d *device) discard(ctx context.Context, be *tenant, e Engine) error {
	var closed error
	err := d.do(ctx, func() {
		be.settle()
		closed = e.Close()
	})
	return errors.Join(err, closed)
}

func (g *golden) config() engine.Config {
	return engine.Config{Epoch: 1, Part: g.part, Pages: 3, Slots: 3, Rows: goldenBatch, Context: min(compute.PageTokens, g.m.Spec.Context)}
}

// check computes the layer on the device, between the steps of others, and
// compares. The error wraps compute.ErrWrong if the device is wrong.
func (g *golden) check(ctx context.Context, load Loader) (err error) {
	if g == nil {
		return nil
	}
	want := <-g.want
	if want.err != nil {
		return want.err
	}
	be := g.dev.tenant(ctx, g.m)
	e, err := load(be, g.m.Arch, g.m.Source, g.m.Spec, g.config())
	if err != nil {
		return fmt.Errorf("load layer %d to check it: %w", g.part.First, err)
	}
	var alone, among []float32
	var stepErr error
	err = g.dev.do(ctx, func() {
		be.settle()
		g.dev.abandon()
		alone, stepErr = g.next(e, 1, goldenRows)
		if stepErr == nil {
			among, stepErr = g.next(e, 2, goldenBatch)
		}
		stepErr = errors.Join(stepErr, e.Close())
	})
	if err = errors.Join(err, stepErr); err != nil {
		return fmt.Errorf("check layer %d: %w", g.part.First, err)
	}
	layer := fmt.Sprintf("layer %d of %s", g.part.First, g.m.Spec.Name)
	if err := g.dev.tolerance.Check(layer, alone, want.values); err != nil {
		return err
	}
	if !slices.Equal(alone, among) {
		return fmt.Errorf("%w: %s, rows among %d others have other bits than alone", compute.ErrWrong, layer, goldenBatch-goldenRows)
	}
	return nil
}

// next runs a step on the device.
func (g *golden) next(e Engine, step uint64, rows int) ([]float32, error) {
	g.dev.lastTag++
	return g.step(g.dev.be, e, g.dev.lastTag, step, rows)
}

// step runs a step of the layer, alone on the device, and returns the first goldenRows
// rows, or the logits of the last of them. More rows are of another session; each step
// has sessions of its own.
func (g *golden) step(be compute.Backend, e Engine, tag, step uint64, rows int) ([]float32, error) {
	f := &frame.Frame{Epoch: 1, Step: step}
	for i, n := range []int{goldenRows, rows - goldenRows} {
		if n == 0 {
			break
		}
		span := frame.Span{Slot: frame.Slot(int(step) - 1 + i), Attempt: 1, Tokens: make([]int32, n)}
		for j := range span.Tokens {
			span.Tokens[j] = int32((j*7919 + 13) % g.m.Spec.Vocab)
		}
		if g.part.Head && i == 0 {
			span.Output = frame.OutputLogits
		}
		f.Ops = append(f.Ops, frame.Op{Open: &frame.Open{Slot: span.Slot, Attempt: 1, AnswerStart: int32(n)}})
		f.Spans = append(f.Spans, span)
	}
	if !g.part.Embed {
		f.DType = frame.DTypeF32
		for i := range rows * g.m.Spec.Hidden {
			f.Rows = binary.LittleEndian.AppendUint32(f.Rows, math.Float32bits(float32(i*2654435761%2048)/1024-1))
		}
	}
	if err := e.Start(tag, f); err != nil {
		return nil, err
	}
	c, ok := <-be.Completions()
	if !ok {
		return nil, errors.New("the backend was closed")
	}
	out, err := e.Finish(c)
	if err != nil {
		return nil, err
	}
	if g.part.Head {
		return out.Result.Sampled[0].Logits, nil
	}
	values := make([]float32, goldenRows*g.m.Spec.Hidden)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(out.Frame.Rows[4*i:]))
	}
	return values, nil
}
