//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/profile"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
)

var _ profile.Source = (*Backend)(nil)

// profiler times each dispatch of a pass by the device's own clock. The passes are
// the real ones, but for the stamps between dispatches.
type profiler struct {
	queries *device.QuerySet
	times   *device.Buffer

	mu    sync.Mutex
	kinds map[string]*profile.Op
	order []string
}

// mostStamps is the number of times in a query set.
const mostStamps = 4096

// Profile switches the timing of operations on or off. Nothing may be unfinished.
// It stays off on devices that cannot tell the time.
func (b *Backend) Profile(on bool) {
	b.profiling = false
	if !on || !b.dev.Limits.Timestamps {
		return
	}
	if b.profiler.queries == nil {
		q, err := b.dev.NewQuerySet(mostStamps)
		if err != nil {
			b.log.Warn("operations are not timed", "error", err)
			return
		}
		times, err := b.ownBuffer(8*mostStamps, device.Queries)
		if err != nil {
			q.Free()
			b.log.Warn("operations are not timed", "error", err)
			return
		}
		b.profiler.queries, b.profiler.times = q, times
	}
	b.profiling = true
}

// Ops returns what was timed since the last call, in the order of a pass.
func (b *Backend) Ops() []profile.Op {
	p := &b.profiler
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []profile.Op
	for _, k := range p.order {
		out = append(out, *p.kinds[k])
	}
	p.kinds, p.order = nil, nil
	return out
}

// work is what a dispatch must read and compute at least.
type work struct {
	name, shape  string
	bytes, flops float64
}

// timed is a dispatch of a profiled pass.
type timed struct {
	at int // command
	work
}

// note says what the next dispatch does.
func (p *pass) note(shape string, bytes, flops float64) {
	p.next = work{shape: shape, bytes: bytes, flops: flops}
}

// stamp puts stamps between the commands of a profiled pass and returns the bytes of
// times that are read back.
func (p *pass) stamp(at uint64) uint64 {
	if !p.profiled || len(p.timed) == 0 || len(p.timed) >= mostStamps {
		p.profiled = false
		return at
	}
	var c device.Commands
	q := p.be.profiler.queries
	c.Stamp(q, 0)
	from := 0
	for i, t := range p.timed {
		c.AppendRange(&p.commands, from, t.at+1)
		c.Stamp(q, i+1)
		from = t.at + 1
	}
	c.AppendRange(&p.commands, from, p.commands.Len())
	n := len(p.timed) + 1
	c.Resolve(q, n, p.be.profiler.times)
	p.commands = c
	p.timesAt = (at + 7) &^ 7
	return p.timesAt + uint64(8*n)
}

// account adds the times of a profiled pass that took elapsed.
func (p *pass) account(back []byte, elapsed time.Duration) {
	if !p.profiled {
		return
	}
	stamps := make([]uint64, len(p.timed)+1)
	for i := range stamps {
		stamps[i] = binary.LittleEndian.Uint64(back[p.timesAt+uint64(8*i):])
	}
	// The library does not tell what a tick is. It is a nanosecond, unless that
	// would be far from what the pass took.
	tick := 1.0
	total := float64(stamps[len(stamps)-1] - stamps[0])
	if ratio := float64(elapsed) / max(total, 1); ratio > 5 || ratio < 0.5 {
		tick = ratio
	}
	pr := &p.be.profiler
	pr.mu.Lock()
	defer pr.mu.Unlock()
	for i, t := range p.timed {
		key := t.name + " " + t.shape
		op := pr.kinds[key]
		if op == nil {
			if pr.kinds == nil {
				pr.kinds = map[string]*profile.Op{}
			}
			op = &profile.Op{Name: t.name, Shape: t.shape}
			pr.kinds[key] = op
			pr.order = append(pr.order, key)
		}
		op.Calls++
		op.Spent += time.Duration(tick * float64(stamps[i+1]-stamps[i]))
		op.Bytes += t.bytes
		op.Flops += t.flops
	}
}

// noteProduct notes a product of rows of weights with rows of activations.
func (p *pass) noteProduct(w *weight, rows, tokens int) {
	if !p.profiled {
		return
	}
	bytes := float64(rows) * float64(w.cols) / float64(w.format.BlockElems) * float64(w.format.BlockBytes)
	p.note(fmt.Sprintf("%d×%d %s", rows, w.cols, w.format.Name), bytes, 2*float64(rows)*float64(w.cols)*float64(tokens))
}

// noteAttention notes an attention of the batch over a cache.
func (p *pass) noteAttention(c *cache, heads int) {
	if !p.profiled {
		return
	}
	var keys, pairs float64
	for _, s := range p.batch.Spans {
		keys += float64(s.Start + s.Count)
		pairs += float64(s.Count) * (float64(s.Start) + float64(s.Count+1)/2)
	}
	p.note(fmt.Sprintf("%d heads, %d of keys, of %d", heads, c.spec.KVHeads, c.spec.HeadDim),
		keys*float64(c.spec.PageBytes())/compute.PageTokens, pairs*4*float64(heads*c.spec.HeadDim))
}

// begun prepares a pass to be profiled.
func (p *pass) profile() {
	p.profiled = p.be.profiling
	p.timed = slices.Delete(p.timed, 0, len(p.timed))
	p.next = work{}
}
