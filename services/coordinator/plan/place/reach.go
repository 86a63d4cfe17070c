package place

import (
	"cmp"
	"fmt"
	"slices"
)

// maxAdded is how many devices Reach tries to add.
const maxAdded = 16

// Reach says in a sentence what to add to c so that m reaches rate tokens a
// second: of one stream for latency, of all expected streams for throughput.
func Reach(m *Model, c *Cluster, w Wishes, rate float64) (string, error) {
	if rate <= 0 {
		return "", fmt.Errorf("%g tokens/s: want more than 0", rate)
	}
	now, err := Place(m, c, w)
	if err == nil && now.reaches(rate) {
		return fmt.Sprintf("%s: nothing has to be added", now.speed()), nil
	}
	if now == nil {
		now = &Placement{Model: m, Wishes: w.complete(m)}
	}
	model := fastest(m, c, &now.Wishes)
	if model == nil {
		return "", err
	}
	best := now
	for n := 1; n <= maxAdded; n++ {
		bigger, err := Place(m, c.with(model, n), w)
		if err != nil {
			continue
		}
		if bigger.reaches(rate) {
			return fmt.Sprintf("add %d %s like %s: %s", n, plural(n, "device"), model.ID(), bigger.speed()), nil
		}
		best = bigger
	}
	return best.outOfReach(model, rate), nil
}

// rate is what the objective counts.
func (p *Placement) rate() float64 {
	switch {
	case len(p.Pipelines) == 0:
		return 0
	case p.Wishes.Objective == Throughput:
		return p.Tokens
	}
	return 1 / p.Pipelines[0].Token
}

func (p *Placement) reaches(rate float64) bool { return p.rate() >= rate }

func (p *Placement) speed() string {
	if p.Wishes.Objective == Throughput {
		return fmt.Sprintf("%s for %d streams", Rate(p.rate()), p.Wishes.Streams)
	}
	return Rate(p.rate()) + " for one stream"
}

// outOfReach says which limit more devices do not move.
func (p *Placement) outOfReach(d *Device, rate float64) string {
	text := fmt.Sprintf("%d more devices like %s do not reach %s", maxAdded, d.ID(), Rate(rate))
	if len(p.Pipelines) > 0 {
		text += fmt.Sprintf(" (%s)", p.speed())
	}
	if p.Wishes.Objective == Throughput {
		return text + ": faster devices or more streams are needed"
	}
	read := p.Model.Head
	for i := range p.Model.Layers {
		read += p.Model.Layers[i].reads()
	}
	text += fmt.Sprintf(": every token reads %s of weights one after the other, which takes %.1f GB/s of memory bandwidth",
		Size(read), float64(read)*rate/1e9)
	if d.Bandwidth > 0 {
		text += fmt.Sprintf("; it has %.1f GB/s", d.Bandwidth/1e9)
	}
	return text
}

// fastest is the device that computes a token in the least time.
func fastest(m *Model, c *Cluster, w *Wishes) *Device {
	devices := candidates(c, w)
	if len(devices) == 0 {
		return nil
	}
	work := w.decode(1)
	return slices.MinFunc(devices, func(a, b *Device) int {
		return cmp.Compare(a.time(m, m.whole(), work), b.time(m, m.whole(), work))
	})
}

// with is c and n more devices like d, each a node of its own, as far away as
// the nodes of c are from each other in the mean.
func (c *Cluster) with(d *Device, n int) *Cluster {
	out := &Cluster{Devices: slices.Clone(c.Devices), Links: c.Links}
	out.Links.Default = c.Links.mean()
	out.Links.Local = c.Links.Of(d.Node, d.Node)
	for i := range n {
		more := *d
		more.Node, more.Index, more.Held = fmt.Sprintf("another-%s-%d", d.Node, i+1), 0, Held{}
		out.Devices = append(out.Devices, more)
	}
	return out
}

// mean is the mean of the links between different nodes.
func (l Links) mean() Link {
	var sum Link
	n, rates := 0.0, 0.0
	for dir, link := range l.Between {
		if dir.From == dir.To {
			continue
		}
		sum.Delay += link.Delay
		n++
		if link.Rate > 0 {
			sum.Rate += link.Rate
			rates++
		}
	}
	if n == 0 {
		return l.Default
	}
	sum.Delay /= n
	if rates > 0 {
		sum.Rate /= rates
	}
	return sum
}
