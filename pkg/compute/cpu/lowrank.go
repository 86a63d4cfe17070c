package cpu

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// lowTask is rows of one adapter, which change one buffer.
type lowTask struct {
	rows   list // of pass.ints
	width  int  // of their tile
	change *compute.LowRank
	dst    *buffer
}

// lowGroups is how many groups of rows of B a kernel goes over at once.
const lowGroups = 16

// AddLowRank makes tasks of up to a tile of rows that have the same adapter. The
// factors are float32, and so are the activations that they multiply.
func (p *pass) AddLowRank(dst []compute.Buffer, x compute.Buffer, gain compute.Vector, eps float32, changes [][]*compute.LowRank) {
	if len(dst) != len(changes) {
		fail("low rank: %d buffers for %d lists of changes", len(dst), len(changes))
	}
	src := x.(*buffer)
	s := step{kind: lowRank, src: src, eps: eps, lows: list{from: len(p.lows)}}
	if gain != nil {
		s.norm, s.gain = true, gain.(*vector)
		holds("low rank", src, p.batch.Rows, s.gain.n)
	}
	for adapter := 1; adapter <= mostChanges(changes); adapter++ {
		rows := p.rowsOf(adapter)
		for i := range dst {
			if rows.len() == 0 || len(changes[i]) < adapter || changes[i][adapter-1] == nil {
				continue
			}
			p.addLow(&s, dst[i].(*buffer), changes[i][adapter-1], rows)
		}
	}
	s.lows.to = len(p.lows)
	if s.tasks = s.lows.len(); s.tasks > 0 {
		p.need.cols = max(p.need.cols, src.stride)
		p.add(s)
	}
}

// addLow cuts the rows of one change into tiles.
func (p *pass) addLow(s *step, dst *buffer, c *compute.LowRank, rows list) {
	a, b := c.A.(*weight), c.B.(*weight)
	if a.cols != s.src.cols || b.cols != a.rows {
		fail("low rank: factors of %d × %d and %d × %d for rows of %d", b.rows, b.cols, a.rows, a.cols, s.src.cols)
	}
	holds("low rank", dst, p.batch.Rows, b.rows)
	if !p.be.reference && (a.cpu.Act != quant.ActF32 || b.cpu.Act != quant.ActF32) {
		fail("low rank: factors of %s and %s, want float32", a.format.Name, b.format.Name)
	}
	for from := rows.from; from < rows.to; {
		width := p.lowWidth(rows.to - from)
		to := min(from+width, rows.to)
		p.lows = append(p.lows, lowTask{rows: list{from, to}, width: width, change: c, dst: dst})
		p.need.own.add(forms{float32: true}, width, max(a.cols, b.cols), false)
		p.need.cols = max(p.need.cols, b.cols)
		p.need.outputs = max(p.need.outputs, width*quant.Lanes*max(a.groups, lowGroups))
		from = to
	}
}

// lowWidth returns the width of the tile that comes next when n rows are left.
func (p *pass) lowWidth(n int) int {
	width := quant.TileTokens[0]
	for _, w := range quant.TileTokens {
		if w >= n {
			width = w
		}
	}
	return width
}

// mostChanges returns the highest number of an adapter that changes something.
func mostChanges(changes [][]*compute.LowRank) int {
	most := 0
	for _, c := range changes {
		most = max(most, len(c))
	}
	return most
}

// rowsOf lists the rows of the batch that go through an adapter.
func (p *pass) rowsOf(adapter int) list {
	from := len(p.ints)
	for _, s := range p.batch.Spans {
		for i := range s.Count {
			if s.Adapter == adapter {
				p.ints = append(p.ints, int32(s.Row+i))
			}
		}
	}
	return list{from, len(p.ints)}
}

// AdaptedGateUp keeps both products where some row has an adapter: the activation is
// the same function of them wherever they lie. The reference does so for those rows
// alone, as its fused form rounds less.
func (p *pass) AdaptedGateUp(dst, x compute.Buffer, gain compute.Vector, eps float32, ws []compute.Weight, act compute.Activation, rooms []compute.Buffer, changes [][]*compute.LowRank) {
	if len(ws) != 2 || len(rooms) != 2 || len(changes) != 2 {
		fail("adapted gate up: %d weights, %d buffers and %d lists of changes", len(ws), len(rooms), len(changes))
	}
	from := len(p.ints)
	for adapter := 1; adapter <= mostChanges(changes); adapter++ {
		p.rowsOf(adapter)
	}
	rows := list{from, len(p.ints)}
	if rows.len() == 0 || p.be.reference {
		p.NormGateUp(dst, x, gain, eps, ws[0], ws[1], act)
	}
	if rows.len() == 0 {
		return
	}
	p.NormLinear(rooms, x, gain, eps, ws)
	p.AddLowRank(rooms, x, gain, eps, changes)
	out, gate, up := dst.(*buffer), rooms[0].(*buffer), rooms[1].(*buffer)
	holds("adapted gate up", out, p.batch.Rows, gate.cols)
	s := step{kind: gateRow, act: act, dst: out, src: gate, src2: up, tasks: p.batch.Rows}
	if p.be.reference {
		s.rows, s.tasks = rows, rows.len()
	}
	p.add(s)
}

// gateRow joins the two products of one row.
func (w *worker) gateRow(p *pass, s *step, task int) {
	row := p.sourceRow(s, task)
	dst, gate, up := s.dst.row(row), s.src.row(row), s.src2.row(row)
	switch {
	case w.be.reference:
		for i, v := range gate[:s.src.cols] {
			dst[i] = float32(activation64(s.act, float64(v)) * float64(up[i]))
		}
	case s.act == compute.GELUTanh:
		w.be.ops.GELUMul(dst, gate, up)
	default:
		w.be.ops.SiLUMul(dst, gate, up)
	}
}

// lowRank changes rows of one buffer. The order of each sum is that of the kernels of
// float32 weights: it depends on the row and on the factors alone.
func (w *worker) lowRank(p *pass, s *step, t *lowTask) {
	rows := p.ints[t.rows.from:t.rows.to]
	if w.be.reference {
		for _, row := range rows {
			w.referenceLowRank(p, s, t, int(row))
		}
		return
	}
	a, b := t.change.A.(*weight), t.change.B.(*weight)
	w.ownsThat = nil // its tiles make room for these
	tile := rowTile{0, t.width}
	for i := range t.width {
		row := -1
		if i < len(rows) {
			row = int(rows[i])
		}
		w.be.ops.Tile(w.own.float32, w.input(p, s, row), t.width, i)
	}
	rank, low := a.groups*quant.Lanes, w.scratch.outputs2
	w.own.multiply(a, tile, low, 0, a.groups, rank)
	for i := range t.width {
		h := low[i*rank:][:b.cols]
		for j, v := range h {
			h[j] = float32(v * t.change.Scale)
		}
		w.be.ops.Tile(w.own.float32, h, t.width, i)
	}
	for group := 0; group < b.groups; group += lowGroups {
		groups := min(lowGroups, b.groups-group)
		n, out := groups*quant.Lanes, w.scratch.outputs
		w.own.multiply(b, tile, out, group, groups, n)
		for i, row := range rows {
			w.be.ops.Add(t.dst.row(int(row))[group*quant.Lanes:][:n], out[i*n:][:n])
		}
	}
}

// referenceLowRank is lowRank of one row by sums in float64.
func (w *worker) referenceLowRank(p *pass, s *step, t *lowTask, row int) {
	a, b := t.change.A.(*weight), t.change.B.(*weight)
	x, room := make([]float64, s.src.cols), make([]float64, max(a.cols, b.cols))
	for c, v := range s.src.row(row)[:s.src.cols] {
		x[c] = float64(v)
	}
	if s.norm && !w.referenceNorm(p, s, x, row) {
		return
	}
	low := make([]float64, a.rows)
	for r := range low {
		low[r] = dot64(w.referenceRow(a, r, room), x) * float64(t.change.Scale)
	}
	dst := t.dst.row(row)
	for r := range b.rows {
		dst[r] = float32(float64(dst[r]) + dot64(w.referenceRow(b, r, room), low))
	}
}
