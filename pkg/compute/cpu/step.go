package cpu

import (
	"encoding/binary"
	"math"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// kind says what the tasks of a step do.
type kind uint8

const (
	clearPages    kind = iota // a page of a layer
	writeRow                  // a row off the wire
	overwriteRow              // a row off the wire, to a row that the step names
	embedRow                  // a row of the table
	normRows                  // rows to tiles, normalised
	tileRows                  // rows to tiles as they are
	product                   // dst = w·tiles
	productAdd                // dst += w·tiles
	productGate               // dst = act(gate·tiles)∘(up·tiles)
	ropeStore                 // rows: rotate, store in the cache
	thin                      // one head of all blocks that are thinned
	lower                     // one head of a page that is complete: codes of its halves
	attend                    // a tile of query rows that share keys
	scaleRow                  // a row
	biasRow                   // a row
	normHeads                 // a row
	normAdd                   // a row
	capRow                    // a row
	pickRow                   // a row
	route                     // all rows
	placeRows                 // a tile of places, rows at experts
	expertGate                // dst = act(gate·tiles)∘(up·tiles), a block of one expert
	expertDown                // dst = down·tiles, a block of one expert
	expertJoin                // a row
	expertGateOne             // expertGate of the only row, at the experts it goes to
	expertDownOne             // dst += Σ share·(down·row), a block of all of these
	lowRank                   // rows of one adapter: dst += scale·b·(a·row)
	gateRow                   // a row that the step names: dst = act(src)∘src2
)

// step is tasks that may run at the same time. All steps of a pass are records
// in one slice that is used again and again, so a step holds what any kind needs.
type step struct {
	kind  kind
	act   compute.Activation
	heads int // attend: query heads of a row
	layer int // ropeStore, attend
	tasks int // number of tasks
	chunk int // rows of a task, where tasks are rows

	eps, scale, softCap float32
	window              int

	dst, src, src2 *buffer
	gain           *vector
	weight         *weight
	cache          *cache
	rope           *compute.Rope
	experts        *compute.Experts

	rows     list // of pass.ints: row i of the step is this row of src; empty is i
	tiles    list // of pass.tiles: widths of activation tiles
	products list // of pass.products
	queries  list // of pass.queries
	pages    list // of pass.ints: clearPages; lower, 3 for each page
	bytes    list // of pass.bytes: writeRow
	varied   list // of pass.varied: biasRow, normHeads
	lows     list // of pass.lows
	forms    forms
	own      bool // product: each worker fills tiles of its own, from what a tileRows step has
	norm     bool // the tiles are normalised
}

// list is a part of one of the pass's slices.
type list struct{ from, to int }

func (l list) len() int { return l.to - l.from }

// forms says in which forms activations are wanted.
type forms struct{ int8, float32 bool }

func (f *forms) add(w *weight) {
	if w.cpu != nil && w.cpu.Act == quant.ActInt8 {
		f.int8 = true
	} else {
		f.float32 = true
	}
}

// do runs one task.
func (w *worker) do(p *pass, s *step, task int) {
	switch s.kind {
	case clearPages:
		pages := p.ints[s.pages.from:s.pages.to]
		s.cache.clear(task/len(pages), pages[task%len(pages)])
	case writeRow, overwriteRow:
		row := s.dst.row(task)
		if s.kind == overwriteRow {
			row = s.dst.row(int(p.ints[s.rows.from+task]))
		}
		readFloats(row[:s.dst.cols], p.bytes[s.bytes.from+4*s.dst.cols*task:])
		clear(row[s.dst.cols:])
	case embedRow:
		row := s.dst.row(task)
		s.weight.decodeRow(row, int(p.ints[s.rows.from+task]))
		clear(row[s.dst.cols:])
	case tileRows:
		w.tile(p, s, &w.gang.tiles, task*s.chunk, (task+1)*s.chunk)
	case product, productAdd, productGate:
		w.product(p, s, task)
	case ropeStore:
		w.ropeStore(p, s, task)
	case lower:
		heads := s.cache.spec.KVHeads
		at := p.ints[s.pages.from+task/heads*3:]
		s.cache.lower(s.layer, at[0], at[1], at[2], task%heads, w.scratch.page)
	case thin:
		w.thinPages(p, s, task)
	case attend:
		w.attend(p, s, task)
	case scaleRow, biasRow, normHeads, normAdd, capRow:
		w.vary(p, s, task)
	case pickRow:
		pick(s.dst.row(task), s.src.row(task)[:s.src.cols])
	case route:
		w.route(p, s)
	case placeRows:
		w.placeRows(p, s, task)
	case expertGate, expertDown:
		w.expert(p, s, task)
	case expertJoin:
		w.join(p, s, task)
	case expertGateOne:
		w.gateOne(p, s, task)
	case expertDownOne:
		w.downOne(p, s, task)
	case lowRank:
		w.lowRank(p, s, &p.lows[s.lows.from+task])
	case gateRow:
		w.gateRow(p, s, task)
	}
}

// readFloats reads little-endian values.
func readFloats(dst []float32, src []byte) {
	src = src[:4*len(dst)]
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

// need is the working memory that a pass asks for.
type need struct {
	shared, own tileNeed
	cols        int // of the widest row that is tiled
	outputs     int // values of a block of products
	headDim     int
	page        int // values of one head in a page: packed caches
	exact       int // values: reference mode
	thin        *cache
}

// tileNeed is the room for activations in each form: bytes, and values in the
// reference's.
type tileNeed struct{ int8, float32, float64 int }

// add makes room for rows rows of cols.
func (n *tileNeed) add(f forms, rows, cols int, reference bool) {
	if reference {
		n.float64 = max(n.float64, rows*cols)
		return
	}
	if f.int8 {
		n.int8 = max(n.int8, quant.ActInt8.ActBytes(rows, cols))
	}
	if f.float32 {
		n.float32 = max(n.float32, quant.ActF32.ActBytes(rows, cols))
	}
}

// tiles is the activations of the products to come.
type tiles struct {
	int8, float32 []byte
	float64       []float64
}

// grow makes room and returns the bytes held.
func (t *tiles) grow(n *tileNeed) int {
	t.int8 = grown(t.int8, n.int8)
	t.float32 = grown(t.float32, n.float32)
	t.float64 = grown(t.float64, n.float64)
	return len(t.int8) + len(t.float32) + 8*len(t.float64)
}

// grown returns s, or a longer slice if it has fewer than n values.
func grown[T any](s []T, n int) []T {
	if len(s) >= n {
		return s
	}
	return make([]T, n)
}
