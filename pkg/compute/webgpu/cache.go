//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
)

// cache is the KV pages of a stage, a buffer for each layer. A page of float32 holds
// the keys, [head][dimension/4][64][4], then the values, [head][64][dimension]. A
// packed cache has its pages in up to three forms, one pool behind the other: the
// oldest, halves, codes between; packed.wgsl says how.
type cache struct {
	arena  *arena
	spec   compute.CacheSpec
	layers []*device.Buffer
}

func (c *cache) Spec() compute.CacheSpec { return c.spec }

// packed reports whether the cache is of another class than float32.
func (c *cache) packed() bool { return c.spec.Class != compute.KVClass{} }

// compileCache has the kernels of a packed cache compiled while weights are loaded:
// what checks a stage before it serves keeps float32.
func (b *Backend) compileCache(spec compute.CacheSpec) error {
	if spec.Class == (compute.KVClass{}) {
		return nil
	}
	ops := []*op{attendCodeOp, keepOp}
	if spec.Class.Steps() {
		ops = append(ops, lowerOp)
	}
	for _, o := range ops {
		if _, err := b.kernel.get(kernel{op: o, dim: spec.HeadDim, class: spec.Class}); err != nil {
			return err
		}
	}
	return nil
}

// recent and upper return the words of a layer before the pools of finer forms.
func (c *cache) recent() int { return int(uint64(c.spec.Pages) * c.spec.PageBytes() / 4) }

func (c *cache) upper() int {
	return c.recent() + int(uint64(c.spec.Pools.Recent)*c.spec.RecentBytes()/4)
}

// written returns the pool that positions are written to: its first byte in a
// layer, its pages and the bytes of one.
func (c *cache) written() (from uint64, pages int, size uint64) {
	if c.spec.Class.Steps() {
		return 4 * uint64(c.recent()), c.spec.Pools.Recent, c.spec.RecentBytes()
	}
	return 0, c.spec.Pages, c.spec.PageBytes()
}

// checkFiner panics unless the finer forms that the rows of a span see, or write,
// are in the pools.
func (c *cache) checkFiner(s *compute.Span) {
	class := c.spec.Class
	if !class.Steps() {
		return
	}
	first, pages := s.Start/compute.PageTokens, tiles(s.Start+s.Count, compute.PageTokens)
	check := func(what string, table []int32, from, held int) {
		if len(table) < pages {
			fail("%d pages in %s for %d", len(table), what, pages)
		}
		for i := max(from, 0); i < pages; i++ {
			if table[i] < 0 || int(table[i]) >= held {
				fail("page %d at %d of %d pages in %s", i, table[i], held, what)
			}
		}
	}
	pools := c.spec.Pools
	check("halves", s.Recent, first-class.Recent/compute.PageTokens, pools.Recent)
	if s.Recent[0] < 0 || int(s.Recent[0]) >= pools.Recent {
		fail("page 0 at %d of %d pages in halves", s.Recent[0], pools.Recent)
	}
	if class.Upper != 0 {
		check("codes", s.Upper, max(first-class.Far/compute.PageTokens, 1), pools.Upper)
	}
}

// keep records that rotated keys, and values, are stored in a packed cache, and that
// the pages which the batch completes become codes. What these are is a function of
// what the page holds, and no row sees them before: which step makes them changes
// nothing.
func (p *pass) keep(keys, values *buffer, c *cache, layer int) {
	if !c.packed() || p.batch.Rows == 0 {
		return
	}
	spec := c.spec
	p.dispatch(kernel{op: keepOp, dim: spec.HeadDim, class: spec.Class}, words(spec.KVHeads, c.recent(), 0, 0).shapes(keys, values),
		2*spec.KVHeads, p.batch.Rows, 1, keys.buffer, values.buffer, c.layers[layer])
	if n := p.lowering(c); n > 0 {
		p.dispatch(kernel{op: lowerOp, dim: spec.HeadDim, class: spec.Class}, words(spec.KVHeads, c.recent(), c.upper(), p.lowers),
			spec.KVHeads*spec.HeadDim/32, n, 2, c.layers[layer])
	}
}

// lowering lists the pages that the batch completes, once for all layers, and
// returns their number.
func (p *pass) lowering(c *cache) int {
	if !c.spec.Class.Steps() {
		return 0
	}
	if p.lowered > 0 {
		return p.lowered
	}
	var pages []uint32
	for _, s := range p.batch.Spans {
		for page := max(s.Start/compute.PageTokens, 1); page < (s.Start+s.Count)/compute.PageTokens; page++ {
			upper := uint32(0)
			if c.spec.Class.Upper != 0 {
				upper = uint32(s.Upper[page])
			}
			pages = append(pages, uint32(s.Recent[page]), upper, uint32(s.Pages[page]))
		}
	}
	if len(pages) > 0 {
		number, to := p.list(len(pages))
		copy(to, pages)
		p.lowers, p.lowered = number, len(pages)/3
	}
	return p.lowered
}
