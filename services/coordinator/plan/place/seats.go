package place

import (
	"math"
	"slices"
)

// seat is a place for at most one stage, with sums over layers that make the
// cost of any range a subtraction: [i] is that of the layers before i.
type seat struct {
	device *Device
	budget uint64
	time   []float64 // seconds of the objective's work
	move   []float64 // seconds of loading what is not there, a step's share
	bytes  []uint64  // weights and KV pages
	barred []int     // layers that are pinned elsewhere

	pass     float64 // seconds of any stage here, besides its layers
	turn     float64 // from the arrival of a message to the step that it begins
	head     float64
	moveEnds [2]float64 // of embedding and head
	fixed    uint64     // bytes of any stage here, besides its layers
	ends     [2]uint64  // bytes of embedding and head
	tied     uint64     // counted in both, stored once
}

// problem is one pipeline to find.
type problem struct {
	model  *Model
	work   Work // of the objective
	seats  []seat
	hop    [][]float64 // seconds of the work's rows from a seat to another
	busy   [][]float64 // of them, how long the link is taken
	back   [][]float64 // seconds of ids from a last seat to a first
	fewest int         // stages
	most   int
	logit  uint64 // bytes of buffers where the head is
	pages  int    // KV pages on every stage
	sum    bool   // the objective is the time of a token; else the busiest part
}

// newProblem makes the problem of one pipeline of m on devices that holds pages
// KV pages on every stage.
func newProblem(m *Model, w *Wishes, devices []*Device, links *Links, pages int) *problem {
	p := &problem{model: m, most: len(m.Layers), sum: w.Objective == Latency, logit: uint64(w.Rows) * m.Logits, pages: pages}
	p.work = w.decode(1)
	if !p.sum { // a lane's rows, if every device had a stage
		p.work = w.decode(max(1, math.Ceil(float64(w.Streams)/float64(max(len(devices), 1)))))
	}
	for _, d := range devices {
		p.seats = append(p.seats, p.newSeat(w, d, pages))
	}
	p.shareSeats(w)
	if w.Stages > 0 {
		p.fewest = min(w.Stages, p.most)
		p.most = p.fewest
	} else if w.MaxStages > 0 {
		p.most = min(p.most, w.MaxStages)
	}
	p.most = min(p.most, len(p.seats))
	p.connect(links)
	return p
}

func (p *problem) newSeat(w *Wishes, d *Device, pages int) seat {
	m := p.model
	n := len(m.Layers)
	s := seat{
		device: d, budget: w.budget(d), pass: d.slow() * d.Pass, turn: d.turn(), head: d.head(m, p.work),
		fixed: uint64(w.Rows) * m.Buffers,
		time:  make([]float64, n+1), move: make([]float64, n+1), bytes: make([]uint64, n+1), barred: make([]int, n+1),
	}
	rate := d.load() * patience
	for i := range n {
		l := &m.Layers[i]
		s.time[i+1] = s.time[i] + d.layer(m, l, p.work)
		s.bytes[i+1] = s.bytes[i] + m.Cache(pages)
		s.move[i+1], s.barred[i+1] = s.move[i], s.barred[i]
		if !d.Held.Layers[i] {
			s.move[i+1] += float64(l.Bytes) / rate
		}
		if !d.Held.Layers[i] || !d.Held.Stays {
			s.bytes[i+1] += l.Bytes
		}
		if slices.ContainsFunc(w.Pins, func(p Pin) bool { return p.First <= i && i < p.End && !p.on(d) }) {
			s.barred[i+1]++
		}
	}
	if !d.Held.Embed {
		s.moveEnds[0] = float64(m.Embed) / rate
	}
	if !d.Held.Head {
		s.moveEnds[1] = float64(m.Head) / rate
	}
	s.ends, s.tied = [2]uint64{m.Embed, m.Head}, m.Tied
	if d.Held.Stays && d.Held.Embed {
		s.ends[0] = 0
	}
	if d.Held.Stays && d.Held.Head {
		s.ends[1] = 0
	}
	if d.Held.Stays && d.Held.Embed && d.Held.Head {
		s.tied = 0
	}
	return s
}

// budget is what a model may use of d.
func (w *Wishes) budget(d *Device) uint64 {
	n := d.Memory - uint64(float64(d.Memory)*w.Headroom)
	if w.Memory > 0 {
		n = min(n, w.Memory)
	}
	return n
}

// shareSeats gives devices several seats, of an equal share of memory each,
// where more stages are wished than there are devices.
func (p *problem) shareSeats(w *Wishes) {
	devices, wish := len(p.seats), min(w.Stages, len(p.model.Layers))
	if wish <= devices || devices == 0 {
		return
	}
	var seats []seat
	for i, s := range p.seats {
		n := wish / devices
		if i < wish%devices {
			n++
		}
		s.budget /= uint64(n)
		seats = append(seats, slices.Repeat([]seat{s}, n)...)
	}
	p.seats = seats
}

// connect fills in what links cost.
func (p *problem) connect(links *Links) {
	n, bytes := len(p.seats), uint64(p.work.Rows*float64(p.model.Wire))
	p.hop, p.busy, p.back = square(n), square(n), square(n)
	for a := range n {
		for b := range n {
			l := links.Of(p.seats[a].device.Node, p.seats[b].device.Node)
			p.hop[a][b] = l.Time(bytes) + p.seats[b].turn
			p.busy[a][b] = l.Time(bytes) - l.Delay
			p.back[a][b] = back(links, p.seats[a].device, p.seats[b].device)
		}
	}
}

func square(n int) [][]float64 {
	cells := make([]float64, n*n)
	rows := make([][]float64, n)
	for i := range rows {
		rows[i] = cells[i*n : (i+1)*n]
	}
	return rows
}

// last is the number of layers.
func (p *problem) last() int { return len(p.model.Layers) }

// stage is the time of layers [i, j) on a seat, and whether they fit.
func (p *problem) stage(s *seat, i, j int) (time float64, fits bool) {
	bytes := s.fixed + s.bytes[j] - s.bytes[i]
	time = s.pass + s.time[j] - s.time[i]
	if i == 0 {
		bytes += s.ends[0]
	}
	if j == p.last() {
		bytes += s.ends[1] + p.logit
		time += s.head
		if i == 0 {
			bytes -= s.tied
		}
	}
	return time, bytes <= s.budget && s.barred[i] == s.barred[j]
}

// moving is the share of a step that pays for loading layers [i, j).
func (p *problem) moving(s *seat, i, j int) float64 {
	t := s.move[j] - s.move[i]
	if i == 0 {
		t += s.moveEnds[0]
	}
	if j == p.last() {
		t += s.moveEnds[1]
	}
	return t
}
