package cpu

import (
	"math"
	"slices"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// routing is which rows go to which experts. A place is one row at one expert;
// places are in order of experts, and of rows within one. All of it is room that
// the pass keeps.
type routing struct {
	rows    []int32   // by place
	places  []int32   // [row][used], in ascending order of experts
	experts []int32   // the same: the expert
	shares  []float32 // the same: the softmax
	first   []int32   // by expert: its first place; one more for the end
	tiles   []placeTile
	from    []int32 // by expert: its first tile; one more for the end
}

// placeTile is places that are multiplied together.
type placeTile struct {
	rowTile     // among the tiles' rows, of which the last ones may stand for no place
	first   int // place
	count   int
}

// AddExperts routes when the pass runs, so the steps that follow have room for
// whatever the router chooses.
func (p *pass) AddExperts(x compute.Buffer, gain compute.Vector, eps float32, e *compute.Experts) {
	out, inner, scores := e.Out.(*buffer), e.Inner.(*buffer), e.Scores.(*buffer)
	dst, rows, n := x.(*buffer), p.batch.Rows, e.Count
	if e.Used < 1 || e.Used > n || e.Act > compute.GELUTanh || inner.cols%quant.Lanes != 0 || dst.cols%quant.Lanes != 0 {
		fail("experts: %d of %d, activation %d, %d wide for rows of %d", e.Used, n, e.Act, inner.cols, dst.cols)
	}
	g, u, d := e.Gate.(*weight), e.Up.(*weight), e.Down.(*weight)
	if g.cols != dst.cols || u.cols != dst.cols || d.rows != n*dst.cols || g.rows != n*inner.cols || u.rows != g.rows || d.cols != inner.cols {
		fail("experts: %d × %d and %d × %d to %d × %d for rows of %d", g.rows, g.cols, u.rows, u.cols, d.rows, d.cols, dst.cols)
	}
	holds("experts", inner, rows*e.Used, inner.cols)
	holds("experts", out, rows*e.Used, dst.cols)
	holds("experts", scores, rows, n)
	p.NormLinear([]compute.Buffer{scores}, x, gain, eps, []compute.Weight{e.Router})
	if rows == 0 {
		return
	}
	places := rows * e.Used
	norm := p.norm(x, gain, eps, p.rows)
	norm.forms.add(g)
	norm.forms.add(u)
	down := step{src: inner}
	down.forms.add(d)
	if rows == 1 && !p.be.reference {
		p.addOne(norm, down, inner, dst, e)
		return
	}
	p.routes.grow(places, n)
	p.add(step{kind: route, src: scores, experts: e, tasks: 1})
	p.addPlaces(norm, step{kind: expertGate, act: e.Act, dst: inner}, e, g, places)
	p.addPlaces(down, step{kind: expertDown, dst: out}, e, d, places)
	p.add(step{kind: expertJoin, dst: dst, src: out, experts: e, tasks: rows})
}

// addPlaces appends a step that puts places into tiles, of which there are as many
// at most, and one that multiplies them: its tasks are blocks of each expert's rows.
func (p *pass) addPlaces(tile, multiply step, e *compute.Experts, w *weight, places int) {
	all := w.groups / e.Count
	groups := min(all, max(1, blockBytes/w.rowGroupBytes()))
	tile.kind, tile.experts, tile.tasks = placeRows, e, places
	multiply.experts, multiply.chunk, multiply.tasks = e, groups, (all+groups-1)/groups*e.Count
	p.need.cols = max(p.need.cols, tile.src.stride)
	p.need.outputs = max(p.need.outputs, quant.WideTile*quant.Lanes*groups)
	padded := places + min(places, e.Count)*(quant.WideTile-1) // the last tile of an expert may stand for fewer
	p.need.shared.add(tile.forms, padded, w.cols, p.be.reference)
	if p.be.reference {
		p.need.exact = max(p.need.exact, 2*w.cols)
	}
	p.add(tile)
	p.add(multiply)
}

// rowGroupBytes returns the bytes of a group of rows, as the device holds them.
func (w *weight) rowGroupBytes() int { return max(1, max(w.groupBytes, w.rowBytes*quant.Lanes)) }

// grow makes room for places at n experts. A tile has at least one.
func (r *routing) grow(places, n int) {
	r.rows, r.places, r.experts = grown(r.rows, places), grown(r.places, places), grown(r.experts, places)
	r.shares, r.tiles = grown(r.shares, places), grown(r.tiles, places)
	r.first, r.from = grown(r.first, n+1), grown(r.from, n+1)
}

// route chooses experts for every row, and puts the places in order.
func (w *worker) route(p *pass, s *step) {
	r, used, n := &p.routes, s.experts.Used, s.experts.Count
	clear(r.first[:n+1])
	for row := range p.batch.Rows {
		chosen, shares := r.experts[row*used:][:used], r.shares[row*used:][:used]
		choose(chosen, s.src.row(row)[:n])
		w.share(shares, chosen, s.src.row(row))
		for _, expert := range chosen {
			r.first[expert+1]++
		}
	}
	for i := range n {
		r.first[i+1] += r.first[i]
	}
	next := r.from[:n] // the next place of each expert, until there are tiles
	copy(next, r.first)
	for i, expert := range r.experts[:p.batch.Rows*used] {
		place := next[expert]
		next[expert]++
		r.places[i], r.rows[place] = place, int32(i/used)
	}
	r.cut(p.be, n)
}

// cut puts the places of each expert into tiles.
func (r *routing) cut(be *Backend, n int) {
	row, tiles := 0, 0
	for i := range n {
		r.from[i] = int32(tiles)
		for first, end := int(r.first[i]), int(r.first[i+1]); first < end; {
			width := be.tileWidth(end - first)
			r.tiles[tiles] = placeTile{rowTile{row, width}, first, min(width, end-first)}
			row, first, tiles = row+width, first+width, tiles+1
		}
	}
	r.from[n] = int32(tiles)
}

// choose writes the indexes of the largest scores, in ascending order; of equal
// scores the first count. Scores of a row that is marked are all zero.
func choose(chosen []int32, scores []float32) {
	n := 0 // chosen so far, the largest score first
	for expert, score := range scores {
		at := n
		if n == len(chosen) {
			at--
			if !(score > scores[chosen[at]]) {
				continue
			}
		} else {
			n++
		}
		for ; at > 0 && score > scores[chosen[at-1]]; at-- {
			chosen[at] = chosen[at-1]
		}
		chosen[at] = int32(expert)
	}
	slices.Sort(chosen)
}

// share writes the softmax over the chosen scores.
func (w *worker) share(shares []float32, chosen []int32, scores []float32) {
	largest := scores[chosen[0]]
	for _, expert := range chosen {
		largest = max(largest, scores[expert])
	}
	for i, expert := range chosen {
		shares[i] = scores[expert] - largest
	}
	if w.be.reference {
		for i, v := range shares {
			shares[i] = float32(math.Exp(float64(v)))
		}
	} else {
		var room [quant.Lanes]float32
		for at := 0; at < len(shares); at += len(room) {
			n := copy(room[:], shares[at:])
			w.be.ops.Exp(room[:], room[:])
			copy(shares[at:], room[:n])
		}
	}
	var sum float32
	for _, v := range shares {
		sum += v
	}
	for i := range shares {
		shares[i] /= sum
	}
}

// placeRows fills a tile with rows of the batch, normalised, or with places as
// they are.
func (w *worker) placeRows(p *pass, s *step, task int) {
	r := &p.routes
	if task >= int(r.from[s.experts.Count]) {
		return
	}
	t, out := r.tiles[task], &w.gang.tiles
	for i := range t.width {
		row := -1
		if i < t.count {
			row = t.first + i
			if s.norm {
				row = int(r.rows[row])
			}
		}
		if w.be.reference {
			w.referenceTile(p, s, t.row+i, row)
			continue
		}
		x := w.input(p, s, row)
		if s.forms.int8 {
			w.be.ops.Quantize(out.int8[quant.ActInt8.ActBytes(t.row, len(x)):], x, t.width, i)
		}
		if s.forms.float32 {
			w.be.ops.Tile(out.float32[quant.ActF32.ActBytes(t.row, len(x)):], x, t.width, i)
		}
	}
}

// expert multiplies a block of an expert's rows with all of its places.
func (w *worker) expert(p *pass, s *step, task int) {
	r := &p.routes
	blocks := s.tasks / s.experts.Count
	i := task / blocks
	tiles := r.tiles[r.from[i]:r.from[i+1]]
	if len(tiles) == 0 {
		return
	}
	first, up := s.experts.Down.(*weight), (*weight)(nil)
	if s.kind == expertGate {
		first, up = s.experts.Gate.(*weight), s.experts.Up.(*weight)
	}
	all := first.groups / s.experts.Count
	group := task % blocks * s.chunk
	groups := min(s.chunk, all-group)
	if w.be.reference {
		w.referenceExpert(s, first, up, tiles, i*all, group, groups)
		return
	}
	x, n := &w.gang.tiles, groups*quant.Lanes
	out, out2 := w.scratch.outputs, w.scratch.outputs2
	activate := w.be.ops.SiLUMul
	if s.act == compute.GELUTanh {
		activate = w.be.ops.GELUMul
	}
	for _, t := range tiles {
		x.multiply(first, t.rowTile, out, i*all+group, groups, n)
		if up != nil {
			x.multiply(up, t.rowTile, out2, i*all+group, groups, n)
		}
		for k := range t.count {
			dst := s.dst.row(t.first + k)[group*quant.Lanes:][:n]
			if up != nil {
				activate(dst, out[k*n:][:n], out2[k*n:][:n])
			} else {
				copy(dst, out[k*n:][:n])
			}
		}
	}
}

// referenceExpert is expert with exact weights. The expert's rows begin at group
// base.
func (w *worker) referenceExpert(s *step, first, up *weight, tiles []placeTile, base, group, groups int) {
	cols := first.cols
	for row := group * quant.Lanes; row < (group+groups)*quant.Lanes; row++ {
		weights := w.referenceRow(first, base*quant.Lanes+row, w.scratch.exact)
		var ups []float64
		if up != nil {
			ups = w.referenceRow(up, base*quant.Lanes+row, w.scratch.exact[cols:])
		}
		for _, t := range tiles {
			for k := range t.count {
				x := w.gang.tiles.float64[(t.row+k)*cols:][:cols]
				v := dot64(weights, x)
				if up != nil {
					v = activation64(s.act, v) * dot64(ups, x)
				}
				s.dst.row(t.first + k)[row] = float32(v)
			}
		}
	}
}

// join adds what a row's experts gave to it, times their shares.
func (w *worker) join(p *pass, s *step, row int) {
	used, dst := s.experts.Used, s.dst.row(row)
	for i := row * used; i < (row+1)*used; i++ {
		share := p.routes.shares[i]
		for c, v := range s.src.row(int(p.routes.places[i])) {
			dst[c] += float32(v * share)
		}
	}
}
