package place

import "math"

// describe turns a route into a pipeline with its predictions.
func (pl *planner) describe(p *problem, r route) *Pipeline {
	m, w := pl.model, pl.wishes
	out := &Pipeline{}
	for _, x := range r {
		s := &p.seats[x.seat]
		part := m.part(x.first, x.end)
		out.Stages = append(out.Stages, Stage{
			Device: s.device, Part: part, Bytes: m.Bytes(part, pl.pages, w.Rows), Budget: s.budget,
		})
	}
	out.predict(m, pl.links, w)
	return out
}

// Predict says how fast pipelines of m are that have these stages, with their
// devices and parts, and serve together.
func Predict(m *Model, pipelines [][]Stage, links Links, w Wishes) *Placement {
	p := &Placement{Model: m, Wishes: w.complete(m)}
	for _, stages := range pipelines {
		pipe := Pipeline{Stages: stages}
		pipe.predict(m, &links, &p.Wishes)
		p.Pipelines = append(p.Pipelines, pipe)
	}
	p.divideStreams()
	return p
}

// predict fills in the times of a pipeline.
func (p *Pipeline) predict(m *Model, links *Links, w *Wishes) {
	last := len(p.Stages) - 1
	p.Return = back(links, p.Stages[last].Device, p.Stages[0].Device)
	p.BackLink = p.Return - p.Stages[0].Device.turn()
	p.Token = p.Return
	for k := range p.Stages {
		s := &p.Stages[k]
		s.Decode, s.Prefill = s.Device.time(m, s.Part, w.decode(1)), s.Device.time(m, s.Part, w.chunk())
		const more = 8
		s.Row = (s.Device.time(m, s.Part, w.decode(1+more)) - s.Decode) / more
		s.Weights, s.Page = m.Bytes(s.Part, 0, 0), m.Bytes(s.Part, 1, 0)-m.Bytes(s.Part, 0, 0)
		s.Load, s.Assumed = s.Device.missing(m, s.Part), !s.Device.Measured(m)
		if k < last {
			next := p.Stages[k+1].Device
			s.Link = links.Of(s.Device.Node, next.Node).Time(m.Wire)
			s.Hop = s.Link + next.turn()
		}
		p.Token += s.Decode + s.Hop
	}
	p.FirstToken, p.Prompt = p.firstToken(m, links, w), w.Prompt
}

// back is the time from a result on one device to the next step on another: on
// the same node it goes over no link.
func back(links *Links, from, to *Device) float64 {
	t := to.turn()
	if from.Node != to.Node {
		t += links.Of(from.Node, to.Node).Delay
	}
	return t
}

// firstToken is the time from a session's first step to its first token: the
// chunks of the prompt follow each other through the stages.
func (p *Pipeline) firstToken(m *Model, links *Links, w *Wishes) float64 {
	chunk := w.chunk()
	chunks := math.Ceil(float64(w.Prompt) / chunk.Rows)
	through, widest := 0.0, 0.0
	for k, s := range p.Stages {
		through += s.Prefill
		widest = max(widest, s.Prefill)
		if k+1 < len(p.Stages) {
			hop := links.Of(s.Device.Node, p.Stages[k+1].Device.Node)
			time := hop.Time(uint64(chunk.Rows) * m.Wire)
			through += time + p.Stages[k+1].Device.turn()
			widest = max(widest, time-hop.Delay)
		}
	}
	return through + (chunks-1)*widest
}

// throughput is the tokens a second of streams streams, and the number of lanes
// that gives the most. With l lanes a step has streams/l rows; a lane's next
// step waits for its last to come round, and for the busiest stage to serve the
// other lanes.
func (p *Pipeline) throughput(m *Model, streams float64, w *Wishes) (lanes int, rate float64) {
	for l := 1; l <= len(p.Stages)+1 && float64(l) <= streams; l++ {
		work := w.decode(streams / float64(l))
		round, widest := p.Return, 0.0
		for _, s := range p.Stages {
			t := s.Device.time(m, s.Part, work)
			round += t + s.Hop
			widest = max(widest, t)
		}
		if v := streams / max(round, float64(l)*widest); v > rate*(1+1e-9) {
			lanes, rate = l, v
		}
	}
	return lanes, rate
}

// compareAlone finds what the best single device could do, where a pipeline has
// several.
func (p *Placement) compareAlone(devices []*Device, links *Links) {
	if len(p.Pipelines[0].Stages) == 1 {
		return
	}
	m, w := p.Model, &p.Wishes
	page := m.PagesFor(w.Context)
	for _, d := range devices {
		a := Alone{Device: d, Bytes: m.Bytes(m.whole(), page, w.Rows)}
		a.Token = d.time(m, m.whole(), w.decode(1)) + back(links, d, d)
		for a.Sessions < w.Sessions && m.Bytes(m.whole(), page*(a.Sessions+1), w.Rows) <= w.budget(d) {
			a.Sessions++
		}
		if p.Alone == nil || a.better(p.Alone) {
			p.Alone = &a
		}
	}
}

// better prefers devices that hold the model, then fast ones.
func (a *Alone) better(b *Alone) bool {
	if (a.Sessions > 0) != (b.Sessions > 0) {
		return a.Sessions > 0
	}
	return a.Token < b.Token
}
