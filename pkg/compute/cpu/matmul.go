package cpu

import (
	"math"
	"sync/atomic"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// productTask is one weight of a step of products. Its tasks are blocks of
// groups by runs of tiles.
type productTask struct {
	weight, up *weight // up is set in productGate only
	dst        *buffer
	first      int // task number of its first task
	groups     int // of a block
	blocks     int
	tiles      int // of a run
}

// bytes returns the bytes of a packed group.
func (t *productTask) bytes() int {
	if t.up != nil {
		return t.weight.groupBytes + t.up.groupBytes
	}
	return t.weight.groupBytes
}

const (
	// blockBytes is about how many bytes of weights a task goes over: few
	// enough to stay in a core's cache from tile to tile, and a small part of a
	// millisecond, during which a kernel cannot be preempted.
	blockBytes = 128 << 10
	// streamBytes takes its place where a step has one tile: each weight is then
	// read once, and a long walk spends a smaller part of it on the first bytes,
	// which no prefetch has asked for.
	streamBytes = 512 << 10
	// tasksPerWorker is how many tasks a worker should find in a step that takes
	// long, so that a slow core does not keep the others waiting.
	tasksPerWorker = 4
	// wideRun is how many wide tiles a kernel multiplies at once at most: it
	// unpacks weights once for all of them, and they stay in a core's cache from
	// group to group.
	wideRun = 8
)

// schedule cuts the products of a step into tasks.
func (p *pass) schedule(s *step) {
	products := p.products[s.products.from:s.products.to]
	var groups, size int
	for i := range products {
		groups += products[i].weight.groups
		size += products[i].bytes() * products[i].weight.groups
	}
	wanted, block := p.be.info.Threads, blockBytes
	if s.tiles.len() == 1 {
		block = streamBytes
	}
	if wanted > 1 && (s.tiles.len() > 1 || size > block*wanted) {
		wanted *= tasksPerWorker
	}
	fair := (groups + wanted - 1) / wanted
	for i := range products {
		t := &products[i]
		w := t.weight
		t.groups = min(fair, w.groups)
		if !p.be.reference {
			t.groups = min(t.groups, max(1, block/t.bytes()))
		}
		t.blocks = (w.groups + t.groups - 1) / t.groups
		t.tiles = s.tiles.len()
		if t.blocks < wanted {
			t.tiles = max(1, t.tiles*t.blocks/wanted)
		}
		if p.be.reference {
			t.tiles = s.tiles.len() // a row of weights is decoded once
		}
		t.first = s.tasks
		s.tasks += t.blocks * ((s.tiles.len() + t.tiles - 1) / t.tiles)
		if s.kind != product {
			p.need.outputs = max(p.need.outputs, p.most(s.tiles)*quant.Lanes*t.groups)
		}
	}
}

// most returns the most rows of tiles that one call of a kernel takes.
func (p *pass) most(tiles list) int {
	rows := quant.TileTokens[0]
	for from := tiles.from; from < tiles.to; {
		tile, n := together(p.tiles[from:tiles.to])
		rows = max(rows, tile.width)
		from += n
	}
	return rows
}

// together joins the first of the tiles with those that the same call of a kernel
// takes, and returns how many that are.
func together(tiles []rowTile) (joined rowTile, n int) {
	joined, n = tiles[0], 1
	if joined.width != quant.WideTile {
		return joined, n
	}
	for n < min(wideRun, len(tiles)) && tiles[n].width == quant.WideTile {
		n++
	}
	joined.width *= n
	return joined, n
}

// product runs a block of one weight over a run of tiles.
func (w *worker) product(p *pass, s *step, task int) {
	products := p.products[s.products.from:s.products.to]
	i := len(products) - 1
	for task < products[i].first {
		i--
	}
	t := &products[i]
	task -= t.first
	group := task % t.blocks * t.groups
	groups := min(t.groups, t.weight.groups-group)
	tiles := p.tiles[s.tiles.from:s.tiles.to]
	from := task / t.blocks * t.tiles
	tiles = tiles[from:min(from+t.tiles, len(tiles))]
	if w.be.reference {
		w.referenceProduct(p, s, t, group, groups)
		return
	}
	x := w.activations(p, s)
	for len(tiles) > 0 {
		tile, n := together(tiles)
		tiles = tiles[n:]
		rows := min(tile.width, p.stepRows(s)-tile.row)
		switch s.kind {
		case product:
			x.multiply(t.weight, tile, t.dst.data[tile.row*t.dst.stride+group*quant.Lanes:], group, groups, t.dst.stride)
		case productAdd:
			w.multiplyAdd(x, t, tile, group, groups, rows)
		case productGate:
			w.multiplyGate(x, s.act, t, tile, group, groups, rows)
		}
	}
}

// stepRows returns the number of rows that a step of products computes.
func (p *pass) stepRows(s *step) int {
	if s.tiles == p.rows {
		return p.batch.Rows
	}
	return p.padded(s.tiles) // of a head: rows beyond the last are not read
}

// activations returns the tiles that a step multiplies; a worker's own are filled
// before its first task of the step.
func (w *worker) activations(p *pass, s *step) *tiles {
	if !s.own {
		return &w.gang.tiles
	}
	if w.ownsThat != s {
		w.tile(p, s, &w.own, 0, 1)
		w.ownsThat = s
	}
	return &w.own
}

// multiply computes groups groups of m for one tile of activations.
func (x *tiles) multiply(m *weight, tile rowTile, out []float32, group, groups, ldo int) {
	form := x.float32
	if m.cpu.Act == quant.ActInt8 {
		form = x.int8
	}
	m.multiply(m.group(group, groups), form[m.cpu.Act.ActBytes(tile.row, m.cols):], out, m.cols, groups, ldo, tile.width)
}

// multiplyAdd adds the product to rows rows of dst.
func (w *worker) multiplyAdd(x *tiles, t *productTask, tile rowTile, group, groups, rows int) {
	n := groups * quant.Lanes
	out := w.scratch.outputs
	x.multiply(t.weight, tile, out, group, groups, n)
	for i := range rows {
		w.be.ops.Add(t.dst.row(tile.row + i)[group*quant.Lanes:][:n], out[i*n:][:n])
	}
}

// multiplyGate joins the two products of a gated layer.
func (w *worker) multiplyGate(x *tiles, act compute.Activation, t *productTask, tile rowTile, group, groups, rows int) {
	n := groups * quant.Lanes
	gate, up := w.scratch.outputs, w.scratch.outputs2
	x.multiply(t.weight, tile, gate, group, groups, n)
	x.multiply(t.up, tile, up, group, groups, n)
	activate := w.be.ops.SiLUMul
	if act == compute.GELUTanh {
		activate = w.be.ops.GELUMul
	}
	for i := range rows {
		activate(t.dst.row(tile.row + i)[group*quant.Lanes:][:n], gate[i*n:][:n], up[i*n:][:n])
	}
}

// tile fills rows from to end of out, normalised or as they are.
func (w *worker) tile(p *pass, s *step, out *tiles, from, end int) {
	for i := from; i < min(end, p.padded(s.tiles)); i++ {
		row := p.sourceRow(s, i)
		if w.be.reference {
			w.referenceTile(p, s, i, row)
			continue
		}
		w.store(p, s, out, w.input(p, s, row), i)
	}
}

// input returns row row of a step's source, normalised if the step says so; zeros
// for −1. It is valid until the worker's next input.
func (w *worker) input(p *pass, s *step, row int) []float32 {
	x := w.scratch.row[:s.src.stride]
	switch {
	case row < 0:
		clear(x)
	case s.norm:
		w.norm(p, s, x, row)
	default:
		x = s.src.row(row)
	}
	return x[:s.src.cols]
}

// sourceRow returns which row of its source row i of a step is, or −1 for one
// that only fills up a tile.
func (p *pass) sourceRow(s *step, i int) int {
	switch {
	case s.rows.len() > i:
		return int(p.ints[s.rows.from+i])
	case s.rows.len() > 0 || i >= p.batch.Rows:
		return -1
	}
	return i
}

// norm writes the normalised row to x. A row with a sum of squares that is not
// finite is marked and counts as zero.
func (w *worker) norm(p *pass, s *step, x []float32, row int) {
	src := s.src.row(row)
	sum := w.be.ops.SumSq(src)
	if math.Float32bits(sum)>>23&0xFF == 0xFF {
		atomic.StoreUint32(&p.bad[row], 1)
		clear(x)
		return
	}
	mean := sum / float32(s.src.cols)
	w.be.ops.Norm(x, src, s.gain.data, 1/float32(math.Sqrt(float64(mean+s.eps))))
}

// store puts a row into the tiles of the forms that are wanted.
func (w *worker) store(p *pass, s *step, out *tiles, x []float32, i int) {
	tiles := p.tiles[s.tiles.from:s.tiles.to]
	at := min(i/quant.WideTile, len(tiles)-1)
	for tiles[at].row+tiles[at].width <= i {
		at++
	}
	t := tiles[at]
	if s.forms.int8 {
		w.be.ops.Quantize(out.int8[quant.ActInt8.ActBytes(t.row, len(x)):], x, t.width, i-t.row)
	}
	if s.forms.float32 {
		w.be.ops.Tile(out.float32[quant.ActF32.ActBytes(t.row, len(x)):], x, t.width, i-t.row)
	}
}
