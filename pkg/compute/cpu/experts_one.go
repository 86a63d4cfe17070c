package cpu

import (
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// chosen is a worker's own routing of the only row of a batch.
type chosen struct {
	experts []int32
	shares  []float32
}

// addOne appends the two steps of a mixture for the only row of a batch. Each
// worker routes it and tiles what it multiplies itself, which takes less than to
// meet the others, and the products of the chosen experts are added where they are made, in
// the order of join: the bits are those of many rows.
func (p *pass) addOne(norm, down step, inner, dst *buffer, e *compute.Experts) {
	wide, high := inner.cols/quant.Lanes, dst.cols/quant.Lanes // groups of one expert
	norm.kind, norm.act, norm.dst, norm.experts = expertGateOne, e.Act, inner, e
	norm.chunk = min(wide, p.groupsOfOne(e.Gate.(*weight), e.Used*wide))
	norm.tasks = e.Used * ((wide + norm.chunk - 1) / norm.chunk)
	down.kind, down.dst, down.experts = expertDownOne, dst, e
	down.chunk = p.groupsOfOne(e.Down.(*weight), high)
	down.tasks = (high + down.chunk - 1) / down.chunk
	p.need.cols = max(p.need.cols, norm.src.stride, down.src.stride)
	p.need.outputs = max(p.need.outputs, quant.Lanes*max(norm.chunk, down.chunk))
	p.need.own.add(norm.forms, 1, norm.src.cols, false)
	p.need.own.add(down.forms, 1, down.src.cols, false)
	p.add(norm)
	p.add(down)
}

// groupsOfOne returns how many of the groups of w that a step goes through a task
// takes.
func (p *pass) groupsOfOne(w *weight, groups int) int {
	tasks := tasksPerWorker * p.be.info.Threads
	return max(1, min((groups+tasks-1)/tasks, streamBytes/w.rowGroupBytes()))
}

// gateOne computes a block of the gate of one of the row's experts.
func (w *worker) gateOne(p *pass, s *step, task int) {
	if w.ownsThat != s {
		w.tile(p, s, &w.own, 0, 1)
		w.routeOne(s)
		w.ownsThat = s
	}
	blocks := s.tasks / s.experts.Used
	place := task / blocks
	expert := w.chosen.experts[place]
	gate, up := s.experts.Gate.(*weight), s.experts.Up.(*weight)
	all := gate.groups / s.experts.Count
	group := task % blocks * s.chunk
	groups := min(s.chunk, all-group)
	n, tile, from := groups*quant.Lanes, rowTile{0, 1}, int(expert)*all+group
	w.own.multiply(gate, tile, w.scratch.outputs, from, groups, n)
	w.own.multiply(up, tile, w.scratch.outputs2, from, groups, n)
	activate := w.be.ops.SiLUMul
	if s.act == compute.GELUTanh {
		activate = w.be.ops.GELUMul
	}
	activate(s.dst.row(place)[group*quant.Lanes:][:n], w.scratch.outputs[:n], w.scratch.outputs2[:n])
}

// routeOne chooses the experts of the only row.
func (w *worker) routeOne(s *step) {
	c, used, scores := &w.chosen, s.experts.Used, s.experts.Scores.(*buffer).row(0)
	c.experts, c.shares = grown(c.experts, used), grown(c.shares, used)
	choose(c.experts[:used], scores[:s.experts.Count])
	w.share(c.shares[:used], c.experts[:used], scores)
}

// downOne adds a block of what all of the row's experts give.
func (w *worker) downOne(p *pass, s *step, task int) {
	if w.ownsThat != s { // the worker may have had no task of the step before
		w.routeOne(s)
		w.ownsThat = s
	}
	down, group := s.experts.Down.(*weight), task*s.chunk
	all := down.groups / s.experts.Count
	groups := min(s.chunk, all-group)
	for place, expert := range w.chosen.experts[:s.experts.Used] {
		n, x := groups*quant.Lanes, s.src.row(place)[:s.src.cols]
		if s.forms.int8 {
			w.be.ops.Quantize(w.own.int8, x, 1, 0)
		}
		if s.forms.float32 {
			w.be.ops.Tile(w.own.float32, x, 1, 0)
		}
		w.own.multiply(down, rowTile{0, 1}, w.scratch.outputs, int(expert)*all+group, groups, n)
		dst, share := s.dst.row(0)[group*quant.Lanes:][:n], w.chosen.shares[place]
		for i, v := range w.scratch.outputs[:n] {
			dst[i] += float32(v * share)
		}
	}
}
