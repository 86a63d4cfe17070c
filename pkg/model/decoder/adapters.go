package decoder

import (
	"fmt"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
)

// Changes loads what adapters add to a weight of layer i, whose rows are those of
// several matrices one after the other. There is a list for each of them, nil where no
// adapter changes it; all are nil where there is none at all.
func (b *Builder) Changes(i int, tensor string, cols int, rows ...int) [][]*compute.LowRank {
	full := name(i, tensor)
	b.adapts = append(b.adapts, full)
	if b.arena == nil || b.err != nil {
		return nil
	}
	var out [][]*compute.LowRank
	for n, a := range b.limits.Adapters {
		change, ok, err := a.Change(full)
		if err != nil {
			b.fail("adapter %s: %w", a.ID, err)
		}
		if !ok || b.err != nil {
			continue
		}
		if out == nil {
			out = make([][]*compute.LowRank, len(rows))
			for k := range out {
				out[k] = make([]*compute.LowRank, len(b.limits.Adapters))
			}
		}
		b.loadChange(a.ID, full, change, cols, rows, func(k int, c *compute.LowRank) { out[k][n] = c })
	}
	return out
}

// loadChange loads one adapter's change of a weight. Matrices of one weight share the
// first factor.
func (b *Builder) loadChange(id, tensor string, c model.Change, cols int, rows []int, put func(k int, c *compute.LowRank)) {
	total := 0
	for _, n := range rows {
		total += n
	}
	if c.A.Cols != cols || c.B.Rows != total || c.A.Rows != c.B.Cols || c.A.Rows < 1 {
		b.fail("%w: adapter %s: factors of %d × %d and %d × %d for %s, which is %d × %d",
			model.ErrHParams, id, c.B.Rows, c.B.Cols, c.A.Rows, c.A.Cols, tensor, total, cols)
		return
	}
	load := func(m compute.Matrix, factor string) compute.Weight {
		m.Name = fmt.Sprintf("%s/%s.%s", id, tensor, factor)
		w, err := b.arena.Load(m)
		if err != nil {
			b.fail("load %s: %w", m.Name, err)
		}
		return w
	}
	first := load(c.A, "a")
	rowBytes, data := len(c.B.Data)/total, c.B.Data
	for k, n := range rows {
		part := c.B
		part.Rows, part.Data, data = n, data[:n*rowBytes], data[n*rowBytes:]
		put(k, &compute.LowRank{A: first, B: load(part, "b"), Scale: c.Scale})
	}
}

// joined puts lists of changes of several weights after each other; nil if none of
// them is changed.
func joined(lists ...[][]*compute.LowRank) [][]*compute.LowRank {
	some := false
	var out [][]*compute.LowRank
	for _, l := range lists {
		some = some || l != nil
		if l == nil {
			l = [][]*compute.LowRank{nil}
		}
		out = append(out, l...)
	}
	if !some {
		return nil
	}
	return out
}
