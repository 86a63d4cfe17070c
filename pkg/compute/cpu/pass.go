package cpu

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu/floatmode"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// pass records the operations of a batch as steps. Its slices keep their room
// from pass to pass, so recording allocates nothing once it has seen the largest.
type pass struct {
	be    *Backend
	batch *compute.Batch
	tag   uint64
	reads []compute.Read

	thins    []step // run before clears
	clears   []step // run before steps
	steps    []step
	progress []progress // of each step
	number   uint64
	inside   atomic.Int32  // workers that may read the pass
	mode     atomic.Uint32 // floatmode.Mode of a worker's thread, if it is a wrong one

	ints     []int32
	bytes    []byte
	tiles    []rowTile
	products []productTask
	queries  []queryTile
	varied   []varied
	routes   routing
	lows     []lowTask

	rows    list // the batch's rows as tiles
	heads   int  // geometry that queries was made for
	kvHeads int
	class   compute.KVClass
	attends list
	need    need
	bad     []uint32 // not 0 for rows with a sum of squares that is not finite, atomic
}

var _ compute.Pass = (*pass)(nil)

// Begin starts a pass. It panics when MaxPasses are unfinished or the spans do
// not cover the rows.
func (b *Backend) Begin(batch *compute.Batch) compute.Pass {
	if b.unfinished.Add(1) > compute.MaxPasses {
		panic("cpu: Begin while MaxPasses passes are unfinished")
	}
	var p *pass
	select {
	case p = <-b.free:
	default: // the first ones, and while late workers are inside others: no more than there are workers
		p = &pass{be: b}
	}
	p.begin(batch)
	return p
}

// fewPages reports whether a span has fewer pages than its positions take in any class;
// each cache holds them against its own.
func fewPages(s *compute.Span) bool {
	held := len(s.Pages) * compute.PageTokens
	thinned := s.Start >= 2*compute.KVBlock && held >= compute.KVBlock
	return held < s.Start+s.Count && !thinned
}

func (p *pass) begin(batch *compute.Batch) {
	row := 0
	for _, s := range batch.Spans {
		if s.Row != row || s.Count <= 0 || s.Start < 0 || fewPages(&s) {
			fail("span at row %d of %d rows from position %d with %d pages", s.Row, s.Count, s.Start, len(s.Pages))
		}
		row += s.Count
	}
	if row != batch.Rows {
		fail("spans of %d rows in a batch of %d", row, batch.Rows)
	}
	p.batch, p.tag, p.reads = batch, 0, p.reads[:0]
	p.thins, p.clears, p.steps = p.thins[:0], p.clears[:0], p.steps[:0]
	p.ints, p.bytes, p.tiles = p.ints[:0], p.bytes[:0], p.tiles[:0]
	p.products, p.queries, p.varied, p.lows = p.products[:0], p.queries[:0], p.varied[:0], p.lows[:0]
	p.rows, p.heads, p.kvHeads, p.attends, p.need = list{}, 0, 0, list{}, need{}
	p.mode.Store(0)
	p.bad = grown(p.bad, batch.Rows)
	clear(p.bad)
	p.rows = p.cut(batch.Rows)
}

// rowTile is rows that are multiplied together: width tokens from row on. The
// last ones may stand for no row.
type rowTile struct{ row, width int }

// cut appends the tiles of n rows.
func (p *pass) cut(n int) list {
	from := len(p.tiles)
	row := 0
	for row < n {
		width := p.be.tileWidth(n - row)
		p.tiles = append(p.tiles, rowTile{row, width})
		row += width
	}
	return list{from, len(p.tiles)}
}

// tileWidth returns the width of the tile that comes next when n rows are left.
// Vector kernels are bound by the weights they read, so they rather pad a tile
// than read weights again; portable ones are bound by arithmetic.
func (b *Backend) tileWidth(n int) int {
	width := quant.TileTokens[0]
	if b.wide && n > width {
		return quant.WideTile
	}
	for _, w := range quant.TileTokens {
		if b.level == quant.Portable && w <= n {
			return w
		}
		if w >= n {
			width = w
		}
	}
	return width
}

// padded returns the number of rows that tiles hold.
func (p *pass) padded(tiles list) int {
	last := p.tiles[tiles.to-1]
	return last.row + last.width
}

// add appends a step.
func (p *pass) add(s step) { p.steps = append(p.steps, s) }

// Submit hands the pass to the gang.
func (p *pass) Submit(tag uint64, reads ...compute.Read) {
	for _, r := range reads {
		b := r.Src.(*buffer)
		if r.Rows < 0 || r.Rows > b.rows || len(r.Dst) > r.Rows*b.cols {
			fail("read of %d values, %d rows of a buffer of %d rows of %d", len(r.Dst), r.Rows, b.rows, b.cols)
		}
	}
	p.tag = tag
	p.reads = append(p.reads, reads...)
	if len(p.clears) > 0 {
		p.steps = slices.Insert(p.steps, 0, p.clears...)
	}
	if len(p.thins) > 0 {
		p.steps = slices.Insert(p.steps, 0, p.thins...)
	}
	p.progress = grown(p.progress, len(p.steps))
	for i := range p.steps {
		p.progress[i].taken.Store(0)
		p.progress[i].done.Store(0)
	}
	p.be.queue <- p
}

// read copies what was asked for, without padding.
func (p *pass) read() {
	for _, r := range p.reads {
		b := r.Src.(*buffer)
		dst := r.Dst
		for i := 0; len(dst) > 0; i++ {
			dst = dst[copy(dst, b.row(i)[:b.cols]):]
		}
	}
}

// checkMode notes the mode in which a worker computes, if it changes bits.
func (p *pass) checkMode(m floatmode.Mode) {
	if m.Deviations() != "" {
		p.mode.Store(uint32(m))
	}
}

// modeError says that bits of the pass are not those of the class.
func (p *pass) modeError() error {
	mode := floatmode.Mode(p.mode.Load())
	if mode == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s (control register %#x); find the library in this process that sets it, and restart", ErrFloatMode, mode.Deviations(), uint32(mode))
}

// notFinite returns the rows marked, or nil.
func (p *pass) notFinite() []int32 {
	var rows []int32
	for i, bad := range p.bad[:p.batch.Rows] {
		if bad != 0 {
			rows = append(rows, int32(i))
		}
	}
	return rows
}
