// Package profile tells what the operations of a model take on a device.
//
// A Backend stands before another one. What a pass records is sorted by kind of
// operation and shape, and each kind is run as a pass of its own: all layers'
// products with the gate and up matrices together, for example. So the cost of a
// pass is shared by many calls, and every weight is read once, as in a real
// pass. The order is another one than the model's: what such a pass computes
// means nothing.
package profile

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
)

var errClosed = errors.New("the device is closed")

// Backend is a backend whose passes are timed by kind of operation. Submit waits
// for the device. Methods are called by the goroutine that owns it.
type Backend struct {
	compute.Backend
	done  chan compute.Completion
	kinds map[kind]*Op
	order []kind
	loads map[compute.Weight]float64 // bytes of a value, by weight
	pages map[compute.Cache]float64  // bytes of a value, by cache
	off   bool
}

var _ Source = (*Backend)(nil)

// Source is a backend that tells what its operations took.
type Source interface {
	compute.Backend
	// Profile switches the timing of operations, which makes passes slower, on
	// or off.
	Profile(on bool)
	// Ops returns what was timed since the last call, in the order of a pass.
	Ops() []Op
}

// Of returns be if it times its operations itself, else a Backend before it.
func Of(be compute.Backend) Source {
	if s, ok := be.(Source); ok {
		return s
	}
	return Wrap(be)
}

// Wrap returns a backend that times be. be serves nobody else meanwhile.
func Wrap(be compute.Backend) *Backend {
	return &Backend{
		Backend: be, done: make(chan compute.Completion, compute.MaxPasses), kinds: map[kind]*Op{},
		loads: map[compute.Weight]float64{}, pages: map[compute.Cache]float64{},
	}
}

// Op is what one kind of operation has taken.
type Op struct {
	Name  string        // the method of compute.Pass
	Shape string        // the matrices of a call, or the heads and their dimension
	Calls int           // in all passes
	Spent time.Duration // of the device
	Bytes float64       // of weights and cache that the calls must read at least
	Flops float64       // multiplications and additions of the calls
}

// kind is what is timed together.
type kind struct{ name, shape string }

// Ops returns what was timed since the last call, in the order of a pass.
func (b *Backend) Ops() []Op {
	var out []Op
	for _, k := range b.order {
		out = append(out, *b.kinds[k])
	}
	clear(b.kinds)
	b.order = nil
	return out
}

// NewArena remembers how large the values of the arena's weights are.
func (b *Backend) NewArena() compute.Arena { return arena{b.Backend.NewArena(), b} }

type arena struct {
	compute.Arena
	b *Backend
}

// Load is that of the device.
func (a arena) Load(m compute.Matrix) (compute.Weight, error) {
	w, err := a.Arena.Load(m)
	if err == nil {
		a.b.loads[w] = float64(m.Format.BlockBytes) / float64(m.Format.BlockElems)
	}
	return w, err
}

// NewCache is that of the device.
func (a arena) NewCache(spec compute.CacheSpec) (compute.Cache, error) {
	before := a.Used().Caches
	c, err := a.Arena.NewCache(spec)
	if err == nil {
		values := 2 * spec.Layers * spec.Pages * spec.KVHeads * spec.HeadDim * compute.PageTokens
		a.b.pages[c] = float64(a.Used().Caches-before) / float64(values)
	}
	return c, err
}

// Completions delivers one completion for each pass, as the device's own.
func (b *Backend) Completions() <-chan compute.Completion { return b.done }

// Profile switches the timing on or off. It is on at first. Nothing may be
// unfinished.
func (b *Backend) Profile(on bool) { b.off = !on }

// Begin records a pass.
func (b *Backend) Begin(batch *compute.Batch) compute.Pass {
	if b.off {
		return untimed{b.Backend.Begin(batch), b}
	}
	return &pass{b: b, batch: batch, calls: map[kind][]call{}}
}

// call is a recorded operation, with what it costs at least.
type call struct {
	run          func(compute.Pass)
	bytes, flops float64
}

// run times the calls of one kind as a pass of their own.
func (b *Backend) run(batch *compute.Batch, k kind, calls []call) (time.Duration, error) {
	p := b.Backend.Begin(batch)
	for _, c := range calls {
		c.run(p)
	}
	p.Submit(0)
	c, ok := <-b.Backend.Completions()
	if !ok {
		return 0, fmt.Errorf("time %s: %w", k.name, errClosed)
	}
	if c.Err != nil {
		return 0, fmt.Errorf("time %s: %w", k.name, c.Err)
	}
	op := b.kinds[k]
	if op == nil {
		op = &Op{Name: k.name, Shape: k.shape}
		b.kinds[k] = op
		b.order = append(b.order, k)
	}
	op.Calls += len(calls)
	op.Spent += c.Elapsed
	for _, c := range calls {
		op.Bytes += c.bytes
		op.Flops += c.flops
	}
	return c.Elapsed, nil
}

// pass collects the calls of a batch.
type pass struct {
	b     *Backend
	batch *compute.Batch
	order []kind
	calls map[kind][]call
}

func (p *pass) add(name, shape string, c call) {
	k := kind{name, shape}
	if !slices.Contains(p.order, k) {
		p.order = append(p.order, k)
	}
	p.calls[k] = append(p.calls[k], c)
}

// Submit runs the kinds one after the other, and then a pass of the reads alone.
func (p *pass) Submit(tag uint64, reads ...compute.Read) {
	var spent time.Duration
	for _, k := range p.order {
		took, err := p.b.run(p.batch, k, p.calls[k])
		if err != nil {
			p.b.done <- compute.Completion{Tag: tag, Err: err}
			return
		}
		spent += took
	}
	untimed{p.b.Backend.Begin(p.batch), p.b}.submit(tag, spent, reads)
}

// untimed is a pass as it is.
type untimed struct {
	compute.Pass
	b *Backend
}

// Submit runs the pass and waits for it.
func (p untimed) Submit(tag uint64, reads ...compute.Read) { p.submit(tag, 0, reads) }

func (p untimed) submit(tag uint64, before time.Duration, reads []compute.Read) {
	p.Pass.Submit(tag, reads...)
	c, ok := <-p.b.Backend.Completions()
	if !ok {
		c.Err = errClosed
	}
	c.Tag, c.Elapsed = tag, c.Elapsed+before
	p.b.done <- c
}
